#include <stdlib.h>
#include <string.h>

#include "front/messages.h"


static int
moe_messages_memory(moe_err_t *err)
{
    return moe_err(err, "the engine is out of memory");
}


/* one string of all text parts */

static json_t *
moe_messages_join(const json_t *parts)
{
    char    *text, *p;
    size_t   i, n;
    json_t  *part, *joined;

    n = 1;

    json_array_foreach(parts, i, part) {
        n += json_string_length(json_object_get(part, "text")) + 1;
    }

    text = malloc(n);
    if (text == NULL) {
        return NULL;
    }

    p = text;

    json_array_foreach(parts, i, part) {
        part = json_object_get(part, "text");

        if (i) {
            *p++ = '\n';
        }

        memcpy(p, json_string_value(part), json_string_length(part));
        p += json_string_length(part);
    }

    joined = json_stringn_nocheck(text, (size_t) (p - text));
    free(text);

    return joined;
}


static int
moe_message_content(json_t *message, size_t i, moe_err_t *err)
{
    size_t       k;
    json_t      *content, *part;
    const char  *type;

    content = json_object_get(message, "content");

    if (!json_is_array(content)) {
        return 0;
    }

    json_array_foreach(content, k, part) {
        type = json_string_value(json_object_get(part, "type"));

        if (type == NULL || strcmp(type, "text") != 0
            || !json_is_string(json_object_get(part, "text")))
        {
            return moe_err(err, "messages[%zu].content[%zu] is not text", i,
                           k);
        }
    }

    return json_object_set_new(message, "content",
                               moe_messages_join(content)) == 0
           ? 0 : moe_messages_memory(err);
}


static int
moe_message_reasoning(json_t *message, moe_err_t *err)
{
    size_t   i;
    json_t  *reasoning;

    static const char *const  names[] = {
        "reasoning_content", "thinking", "reasoning"
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        reasoning = json_object_get(message, names[i]);

        if (reasoning == NULL || json_is_null(reasoning)) {
            continue;
        }

        if ((json_object_get(message, "thinking") == NULL
             && json_object_set(message, "thinking", reasoning) == -1)
            || json_object_set(message, "reasoning_content", reasoning) == -1)
        {
            return moe_messages_memory(err);
        }

        break;
    }

    return 0;
}


/* NULL: it is no JSON */

static json_t *
moe_message_arguments(const json_t *arguments)
{
    if (arguments == NULL || json_is_null(arguments)
        || json_string_length(arguments) == 0)
    {
        return json_object();
    }

    return json_loadb(json_string_value(arguments),
                      json_string_length(arguments),
                      JSON_DECODE_ANY|JSON_ALLOW_NUL, NULL);
}


static int
moe_message_calls(json_t *message, size_t i, moe_err_t *err)
{
    size_t   k;
    json_t  *calls, *call, *function, *arguments;

    calls = json_object_get(message, "tool_calls");

    if (calls == NULL) {
        return 0;
    }

    if (json_is_null(calls)
        || (json_is_array(calls) && json_array_size(calls) == 0))
    {
        (void) json_object_del(message, "tool_calls");
        return 0;
    }

    json_array_foreach(calls, k, call) {
        function = json_object_get(call, "function");
        arguments = json_object_get(function, "arguments");

        if (!json_is_object(function) || json_is_object(arguments)
            || json_is_array(arguments))
        {
            continue;
        }

        if (arguments && !json_is_null(arguments)
            && !json_is_string(arguments))
        {
            return moe_err(err, "messages[%zu].tool_calls[%zu].function."
                           "arguments is neither an object nor text", i, k);
        }

        arguments = moe_message_arguments(arguments);

        if (arguments == NULL) {
            return moe_err(err, "messages[%zu].tool_calls[%zu].function."
                           "arguments is not JSON", i, k);
        }

        if (json_object_set_new(function, "arguments", arguments) == -1) {
            return moe_messages_memory(err);
        }
    }

    return 0;
}


int
moe_messages_prepare(json_t *messages, moe_err_t *err)
{
    size_t       i;
    json_t      *message;
    const char  *role;

    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        return moe_err(err, "messages is not a list of messages");
    }

    json_array_foreach(messages, i, message) {
        role = json_string_value(json_object_get(message, "role"));

        if (role == NULL) {
            return moe_err(err, "messages[%zu] has no role", i);
        }

        if (moe_message_content(message, i, err) == -1
            || moe_message_reasoning(message, err) == -1
            || (strcmp(role, "assistant") == 0
                && moe_message_calls(message, i, err) == -1))
        {
            return -1;
        }
    }

    return 0;
}
