#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "front/fair.h"


#define ITEMS  4000


typedef struct {
    moe_fair_node_t  node;
    uint32_t         key;
    int              order;
} item_t;

static moe_fair_t  q;
static item_t      items[ITEMS];
static int         nitems;


static void
key_id(uint8_t *id, uint32_t key)
{
    memset(id, 0, MOE_FAIR_KEY);

    /* not a hash: many are in one bucket */
    memcpy(id + 8, &key, sizeof(key));
    id[0] = (uint8_t) key;
}


static item_t *
enter(uint32_t key, int32_t priority, uint32_t weight)
{
    item_t   *item;
    uint8_t   id[MOE_FAIR_KEY];

    assert_true(nitems < ITEMS);
    item = &items[nitems];
    memset(item, 0, sizeof(item_t));
    item->key = key;
    item->order = nitems++;

    key_id(id, key);
    assert_int_equal(moe_fair_enter(&q, &item->node, id, priority, weight),
                     0);

    return item;
}


static item_t *
push(uint32_t key, int32_t priority, uint32_t weight)
{
    item_t  *item;

    item = enter(key, priority, weight);
    assert_int_equal(moe_fair_push(&q, &item->node, 0), 0);

    return item;
}


/* what a dispatch does: the charge first, then off the queue */

static item_t *
take(int64_t cost)
{
    moe_fair_node_t  *node;

    node = moe_fair_first(&q);

    if (node == NULL) {
        return NULL;
    }

    moe_fair_charge(&q, node, cost);
    moe_fair_remove(&q, node);

    return (item_t *) (void *) node;
}


static void
done(item_t *item)
{
    moe_fair_leave(&q, &item->node);
}


static void
take_is(uint32_t key, int64_t cost)
{
    item_t  *item;

    item = take(cost);
    assert_non_null(item);
    assert_int_equal(item->key, key);
    done(item);
}


static void
finish(void)
{
    int  i;

    for (i = 0; i < nitems; i++) {
        moe_fair_leave(&q, &items[i].node);
    }

    assert_int_equal(q.n, 0);
    assert_int_equal(q.places, 0);
    assert_int_equal(q.nkeys, q.idle);

    moe_fair_free(&q);
    assert_int_equal(q.nkeys, 0);
    assert_int_equal(q.idle, 0);

    memset(&q, 0, sizeof(q));
    nitems = 0;
}


/* a thousand jobs of one key, three of another: each waits for one */

static void
test_thousand(void **unused)
{
    int  i;

    for (i = 0; i < 1000; i++) {
        push(1, 0, 1);
    }

    take_is(1, 100);
    take_is(1, 100);

    for (i = 0; i < 3; i++) {
        push(2, 0, 1);
    }

    /* 2 begins where 1 is */
    take_is(1, 100);
    take_is(2, 100);
    take_is(1, 100);
    take_is(2, 100);
    take_is(1, 100);
    take_is(2, 100);

    for (i = 0; i < 995; i++) {
        take_is(1, 100);
    }

    assert_null(take(0));
    finish();
}


/* tokens count, not jobs: short ones of one are begun for a long one's */

static void
test_tokens(void **unused)
{
    int  i;

    for (i = 0; i < 3; i++) {
        push(1, 0, 1);
    }

    for (i = 0; i < 30; i++) {
        push(2, 0, 1);
    }

    for (i = 0; i < 3; i++) {
        int  k;

        take_is(1, 1000);

        for (k = 0; k < 10; k++) {
            take_is(2, 100);
        }
    }

    finish();
}


static void
test_weights(void **unused)
{
    int       i;
    item_t   *item;
    uint32_t  n[4] = { 0 };

    for (i = 0; i < 400; i++) {
        push(1, 0, 1);
        push(2, 0, 3);
        push(3, 0, 4);
    }

    for (i = 0; i < 800; i++) {
        item = take(12);
        n[item->key]++;
    }

    assert_int_equal(n[1], 100);
    assert_int_equal(n[2], 300);
    assert_int_equal(n[3], 400);
    finish();
}


/* who was away has saved up nothing, also where nobody waited meanwhile */

static void
test_lift(void **unused)
{
    int     i;
    item_t  *a;

    for (i = 0; i < 4; i++) {
        push(1, 0, 1);
    }

    a = take(500);
    push(2, 0, 1);
    assert_int_equal(items[nitems - 1].node.key->counter,
                     500ull * MOE_FAIR_TOKEN);

    take_is(1, 10);
    take_is(2, 10);
    take_is(1, 10);

    /* what it goes on to compute counts too */
    moe_fair_charge(&q, &a->node, 80);
    assert_int_equal(a->node.key->counter, 600ull * MOE_FAIR_TOKEN);
    take_is(1, 10);
    assert_null(moe_fair_first(&q));

    /* the last one that waited was at 610 */
    push(3, 0, 1);
    assert_int_equal(items[nitems - 1].node.key->counter,
                     610ull * MOE_FAIR_TOKEN);

    /* and who had more keeps it */
    moe_fair_charge(&q, &a->node, 100);
    push(1, 0, 1);
    assert_int_equal(items[nitems - 1].node.key->counter,
                     710ull * MOE_FAIR_TOKEN);

    push(3, 0, 1);
    take_is(3, 99);
    take_is(3, 99);
    take_is(1, 1);
    finish();
}


/* a charge moves a key that waits, either way */

static void
test_refund(void **unused)
{
    item_t  *a, *b, *c;

    a = push(1, 0, 1);
    push(1, 0, 1);
    b = push(2, 0, 1);
    push(2, 0, 1);
    c = push(3, 0, 1);

    moe_fair_charge(&q, &a->node, 100);
    moe_fair_charge(&q, &b->node, 60);
    moe_fair_charge(&q, &c->node, 50);
    assert_ptr_equal(moe_fair_first(&q), &c->node);
    moe_fair_charge(&q, &a->node, -90);
    assert_ptr_equal(moe_fair_first(&q), &a->node);
    moe_fair_charge(&q, &a->node, -1000);
    assert_int_equal(a->node.key->counter, 0);
    moe_fair_charge(&q, &a->node, 55);
    assert_ptr_equal(moe_fair_first(&q), &c->node);
    finish();
}


static void
test_classes(void **unused)
{
    int  i;

    for (i = 0; i < 3; i++) {
        push(1, -10, 1);
        push(1, 0, 1);
        push(2, 0, 1);
        push(3, 100, 1);
    }

    push(4, 1000, 1);           /* is 100 */

    take_is(3, 1);
    take_is(4, 1);
    take_is(3, 1);
    take_is(3, 1);

    for (i = 0; i < 3; i++) {
        take_is(1, 7);
        take_is(2, 7);
    }

    /* a key has a counter in each class */
    assert_int_equal(moe_fair_first(&q)->key->counter, 0);
    push(5, 0, 1);
    take_is(5, 1);

    for (i = 0; i < 3; i++) {
        take_is(1, 1);
    }

    assert_null(take(0));
    finish();
}


/* a line is one of arrival; one that comes back is its first */

static void
test_line(void **unused)
{
    int     i;
    item_t  *item, *first;

    for (i = 0; i < 10; i++) {
        push(1, 0, 1);
    }

    first = take(1);
    assert_ptr_equal(first, &items[0]);
    assert_int_equal(q.places, 9);
    assert_int_equal(moe_fair_push(&q, &first->node, 1), 0);
    assert_int_equal(q.places, 10);

    done(&items[3]);
    done(&items[3]);

    for (i = 0; i < 10; i++) {
        if (i != 3) {
            item = take(1);
            assert_ptr_equal(item, &items[i]);
        }
    }

    assert_null(take(1));
    finish();
}


/* against a search for the least among all keys */

static void
test_random(void **unused)
{
    int                i, k, round;
    uint32_t           n, places;
    moe_fair_key_t    *best;
    moe_fair_node_t   *node;

    srand(5);

    for (round = 0; round < 30; round++) {

        for (i = 0; i < ITEMS; i++) {
            k = nitems ? rand() % nitems : 0;

            switch (nitems ? rand() % 6 : 0) {

            case 0:
            case 1:
                push((uint32_t) rand() % 40, rand() % 3 - 1,
                     1u + (uint32_t) rand() % 5);
                break;

            case 2:
                moe_fair_charge(&q, &items[k].node, rand() % 1000 - 200);
                break;

            case 3:
                done(&items[k]);
                break;

            case 4:
                moe_fair_remove(&q, &items[k].node);
                break;

            default:
                take(rand() % 100);
            }

            best = NULL;
            n = 0;
            places = 0;

            for (k = 0; k < nitems; k++) {
                node = &items[k].node;
                places += node->placed;

                if (!node->waits) {
                    continue;
                }

                n++;

                if (best == NULL
                    || node->key->class->priority > best->class->priority
                    || (node->key->class == best->class
                        && (node->key->counter < best->counter
                            || (node->key->counter == best->counter
                                && node->key->order < best->order))))
                {
                    best = node->key;
                }
            }

            assert_int_equal(q.n, n);
            assert_int_equal(q.places, places);
            node = moe_fair_first(&q);
            assert_ptr_equal(node, best ? best->head : NULL);
        }

        finish();
    }
}


/* millions of keys come and go */

static void
test_memory(void **unused)
{
    uint32_t  i;
    item_t   *old;

    /* one waits all the time, so that whoever had anything is ahead of it */
    old = push(0, 0, 1);

    for (i = 1; i <= 1000000; i++) {
        nitems = 1;
        push(i, 0, 1);
        moe_fair_charge(&q, &items[1].node, 5);
        done(&items[1]);
        assert_true(q.nkeys <= MOE_FAIR_IDLE + 2);
    }

    assert_int_equal(q.idle, MOE_FAIR_IDLE);

    /* the last of them is remembered, the first is not */
    nitems = 1;
    push(1000000, 0, 1);
    assert_int_equal(items[1].node.key->counter, 5 * MOE_FAIR_TOKEN);
    push(1, 0, 1);
    assert_int_equal(items[2].node.key->counter, 0);
    done(&items[1]);
    done(&items[2]);

    /* once the one that waits has had as much they are even: all go */
    moe_fair_charge(&q, &old->node, 5);

    for (i = 0; i < MOE_FAIR_IDLE; i++) {
        nitems = 1;
        push(2000000 + i, 0, 1);
        done(&items[1]);
    }

    assert_int_equal(q.idle, 0);
    assert_int_equal(q.nkeys, 1);
    finish();
}


static void
ask_is(uint32_t key, int32_t priority, uint32_t weight, uint32_t places,
    moe_fair_answer_e answer, int64_t victim)
{
    item_t           *item;
    moe_fair_node_t  *node;

    node = NULL;
    item = enter(key, priority, weight);
    assert_int_equal(moe_fair_ask(&q, &item->node, places, &node), answer);

    if (answer == MOE_FAIR_TAKE) {
        assert_ptr_equal(node, &items[victim].node);
    }

    done(item);
    nitems--;
}


static void
test_places(void **unused)
{
    int  i;

    /* 0 .. 9: one key may have them all */
    for (i = 0; i < 10; i++) {
        ask_is(1, 0, 1, 10, MOE_FAIR_YES, 0);
        push(1, 0, 1);
    }

    /* alone it is told that the queue is full; others take of its own */
    ask_is(1, 0, 1, 10, MOE_FAIR_FULL, 0);
    ask_is(2, 0, 1, 10, MOE_FAIR_TAKE, 9);
    done(&items[9]);
    push(2, 0, 1);

    /* now its share is five places, and it has nine */
    ask_is(1, 0, 1, 10, MOE_FAIR_SHARE, 0);
    ask_is(2, 0, 1, 10, MOE_FAIR_TAKE, 8);

    for (i = 8; i >= 5; i--) {
        ask_is(2, 0, 1, 10, MOE_FAIR_TAKE, i);
        done(&items[i]);
        push(2, 0, 1);
    }

    ask_is(1, 0, 1, 10, MOE_FAIR_SHARE, 0);
    ask_is(2, 0, 1, 10, MOE_FAIR_SHARE, 0);

    /* of a third with weight 3 the share is six, of the others two */
    ask_is(3, 0, 3, 10, MOE_FAIR_TAKE, 4);

    /* a higher class takes of the lower one, whoever has how many */
    ask_is(1, 1, 1, 10, MOE_FAIR_TAKE, 4);
    ask_is(9, 1, 1, 10, MOE_FAIR_TAKE, 4);

    /* a lower one gets nothing */
    ask_is(9, -1, 1, 10, MOE_FAIR_FULL, 0);

    finish();
}


/* more keys than places: a newcomer's share is none, and nobody's is used up */

static void
test_crowd(void **unused)
{
    uint32_t  i;

    for (i = 0; i < 10; i++) {
        push(i, 0, 1);
    }

    ask_is(99, 0, 1, 10, MOE_FAIR_FULL, 0);
    ask_is(0, 0, 1, 10, MOE_FAIR_SHARE, 0);

    finish();

    /* what is not in a line cannot be taken from */

    for (i = 0; i < 4; i++) {
        moe_fair_place(&q, &enter(1, 0, 1)->node);
    }

    ask_is(2, 0, 1, 4, MOE_FAIR_FULL, 0);
    ask_is(2, 5, 1, 4, MOE_FAIR_FULL, 0);
    finish();
}


static void
test_ahead(void **unused)
{
    int     i;
    item_t  *item;

    for (i = 0; i < 100; i++) {
        push(1, 0, 1);
    }

    item = enter(2, 0, 1);
    assert_int_equal(moe_fair_ahead(&q, &item->node), 1);
    assert_int_equal(moe_fair_push(&q, &item->node, 0), 0);
    assert_int_equal(moe_fair_ahead(&q, &enter(2, 0, 1)->node), 3);
    assert_int_equal(moe_fair_ahead(&q, &enter(1, 0, 1)->node), 101);
    assert_int_equal(moe_fair_ahead(&q, &enter(4, 0, 4)->node), 0);

    /* four turns of the others are one of its own, and less than that */
    for (i = 0; i < 7; i++) {
        push(4, 0, 4);
    }

    assert_int_equal(moe_fair_ahead(&q, &enter(4, 0, 4)->node), 7 + 2 + 1);
    assert_int_equal(moe_fair_ahead(&q, &enter(3, 1, 1)->node), 0);
    assert_int_equal(moe_fair_ahead(&q, &enter(3, -1, 1)->node), 108);
    assert_false(moe_fair_over(&enter(3, 0, 1)->node));
    assert_true(moe_fair_over(&enter(1, 0, 1)->node));
    assert_false(moe_fair_over(&enter(2, 0, 1)->node));
    finish();
}


static void
test_rate(void **unused)
{
    int         i;
    uint64_t    now;
    moe_rate_t  r;

    memset(&r, 0, sizeof(r));
    now = 1000000;

    /* nothing waits: nothing is measured */
    for (i = 0; i < 100; i++, now += 100000) {
        moe_rate_turn(&r, now, 5, 0);
    }

    assert_int_equal(moe_rate_wait(&r, 10), 0);

    /* two a second while something waits */
    moe_rate_turn(&r, now, 0, 1);

    for (i = 0; i < 7; i++) {
        now += 500000;
        moe_rate_turn(&r, now, 1, 1);
        assert_int_equal(moe_rate_wait(&r, 10), 0);
    }

    now += 500000;
    moe_rate_turn(&r, now, 1, 0);
    assert_int_equal(moe_rate_wait(&r, 10), 5000000);

    /* a pause is no slowness */
    now += 3600000000ull;
    moe_rate_turn(&r, now, 0, 1);
    assert_int_equal(moe_rate_wait(&r, 10), 5000000);

    /* ten times as fast is known in a while */
    for (i = 0; i < 1200; i++) {
        now += 50000;
        moe_rate_turn(&r, now, 1, 1);
    }

    assert_in_range(moe_rate_wait(&r, 100), 5000000, 5100000);

    /* one an hour: what is said becomes longer, up to minutes each */
    memset(&r, 0, sizeof(r));
    moe_rate_turn(&r, now, 0, 1);
    now += 110000000ull;
    moe_rate_turn(&r, now, 0, 1);
    assert_int_equal(moe_rate_wait(&r, 1), 0);
    now += 20000000ull;
    moe_rate_turn(&r, now, 0, 1);
    assert_int_equal(moe_rate_wait(&r, 1), 130000000);
    now += 3600000000ull;
    moe_rate_turn(&r, now, 1, 1);
    assert_int_equal(moe_rate_wait(&r, 1), 1865000000);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_thousand),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_lift),
        cmocka_unit_test(test_refund),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_ahead),
        cmocka_unit_test(test_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
