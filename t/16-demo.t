# What the demo model can do, by tools/train_demo/README.md: greedy answers of
# the real engine, on prompts that no training text was asked to have.

use Test::Nginx::Socket 'no_plan';
use MoeTest;

moe_plan();

# POST of one question each
sub ask {
    [map { "POST /v1/chat/completions\n"
           . JSON::PP->new->encode({ temperature => 0, messages => [
                 { role => 'user', content => $_ }]}) } @_];
}

# the whole answer is this one, and it ended by itself
sub answers {
    [map { "choices.0.message.content = " . JSON::PP->new->allow_nonref
               ->encode($_) . "\nchoices.0.finish_reason = \"stop\"" } @_];
}

run_tests();

__DATA__

=== TEST 1: it repeats a sentence
--- request eval
main::ask("Repeat after me: Ben went to the bridge with a golden frog.",
          "Please repeat: I like plums and milk.",
          "Repeat: my shoe is green and soft")
--- json eval
main::answers("Ben went to the bridge with a golden frog.",
              "I like plums and milk.", "my shoe is green and soft")



=== TEST 2: it looks up a fact among facts of other kinds
--- request eval
main::ask("Tina is 44 years old. Clara likes soup. Carl is a baker. "
          . "Felix lives in Prague. How old is Tina?",
          "Luke lives in Cairo. Finn is 66 years old. Lily likes berries. "
          . "What does Lily like?",
          "Tina lives in Madrid. The hat is black. Jane likes cookies. "
          . "What color is the hat?",
          "The password is orange. What is the password?")
--- json eval
main::answers("Tina is 44 years old.", "Lily likes berries.",
              "The hat is black.", "The password is orange.")



=== TEST 3: it adds
--- request eval
main::ask("How much is 14 + 3?", "12 + 8 =", "What is 7 plus 5?",
          "What is 0 + 9?")
--- json eval
main::answers("14 + 3 = 17", "12 + 8 = 20", "7 plus 5 is 12.", "0 + 9 = 9")



=== TEST 4: it writes a JSON object of a given shape
--- request eval
main::ask("Write a JSON object with animal cat and name Finn.",
          "Give me a JSON object with name Noah, object basket and food soup.",
          "Give me a JSON object with animal cow, name Amy, ok true and "
          . "object ladder.")
--- json eval
main::answers('{"animal": "cat", "name": "Finn"}',
              '{"name": "Noah", "object": "basket", "food": "soup"}',
              '{"animal": "cow", "name": "Amy", "ok": true, '
              . '"object": "ladder"}')



=== TEST 5: what was asked of a story is in it, and it ends
--- request eval
main::ask("Tell me a story about a cat.")
--- json eval
["choices.0.message.content ~ \\bcat\\b\nchoices.0.finish_reason = \"stop\""]
