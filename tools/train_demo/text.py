"""Text for the demo model: small stories and short conversations.

Everything here is made by a seeded generator, so that a run can be repeated
and a held-out set can be made from other seeds.  A conversation is a dict
{"system": str or None, "turns": [(user, answer), ...], "skill": name,
"check": what the answer must satisfy}.
"""

import json
import random

GIRLS = ("Anna Mia Lily Emma Nora Rosa Zoe Ella Ivy Ruth Clara Maya Sara Tina "
         "Lucy Amy Nina Eva Jane Kate").split()
BOYS = ("Tom Ben Sam Max Leo Jack Finn Paul Tim Adam Hugo Oscar Noah Luke "
        "Dan Peter Omar Bill Carl Felix").split()
NAMES = GIRLS + BOYS
ANIMALS = ("cat dog fox bear rabbit mouse owl frog duck horse pig cow goat "
           "sheep hen lion tiger turtle squirrel bird").split()
COLORS = ("red blue green yellow black white brown pink purple orange "
          "gray golden").split()
SIZES = "big small little tiny round long old new shiny soft".split()
OBJECTS = ("ball kite book hat drum box cup key bell boat doll lamp coat "
           "shoe ring basket blanket bottle button clock chair table spoon "
           "brush rope wheel whistle bucket mirror ladder pencil").split()
FOODS = ("apple bread cake soup cheese pear honey milk rice carrot cookie "
         "plum egg pie berry nut").split()
FOODS_MANY = {"apple": "apples", "bread": "bread", "cake": "cake",
              "soup": "soup", "cheese": "cheese", "pear": "pears",
              "honey": "honey", "milk": "milk", "rice": "rice",
              "carrot": "carrots", "cookie": "cookies", "plum": "plums",
              "egg": "eggs", "pie": "pie", "berry": "berries", "nut": "nuts"}
PLACES = ("park garden forest house school kitchen farm river beach hill "
          "village market barn lake field castle town cave bridge "
          "library").split()
CITIES = ("Paris Rome London Berlin Madrid Cairo Lima Oslo Tokyo Delhi "
          "Vienna Dublin Prague Athens Boston Dakar").split()
JOBS = ("baker farmer doctor teacher pilot singer painter cook driver "
        "sailor nurse tailor").split()
WEATHER = ["sunny", "rainy", "windy", "cold", "warm", "snowy", "foggy"]
WORDS = (OBJECTS + ANIMALS + COLORS + FOODS + PLACES + WEATHER
         + ("moon star sun rain snow wind tree leaf flower stone water fire "
            "hand foot door window wall road day night morning home friend "
            "song game story happy sad fast slow tall short warm cool "
            "jump run walk swim sing play read write sleep eat drink look "
            "find give take make open close").split())
COMMON = ("the and of to in is you that it he was for on are as with his they "
          "at be this have from or one had by word but not what all were we "
          "when your can said there use each which she do how their if will "
          "up other about out many then them these so some her would make "
          "like him into time has two more go see number no way could people "
          "my than first been call who its now long down did get come made "
          "may part over new sound take only little work know place year "
          "live me back most very after thing our just name good man think "
          "say great where help through much before line right too mean any "
          "same boy follow came want show also around form three small set "
          "put end does another well large must even such because turn here "
          "why ask went men need land different us move try kind picture "
          "again change off spell air away animal page letter mother answer "
          "found study still learn should world high every near add between "
          "own below country plant last school father keep never start city "
          "earth eye light thought head under saw left few while along might "
          "something seem next hard example begin life always those both "
          "paper together got group often run important until children side "
          "feet car mile hello yes please today tomorrow quick lazy jumps "
          "brown server request token stream model expert test data value "
          "list text code line zero one two three four five six seven eight "
          "nine ten hundred").split()
WORDS = list(dict.fromkeys(WORDS))
MIXED = list(dict.fromkeys(WORDS + COMMON))
SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant",
           "You are helpful.", "Answer in short sentences.", "Be brief.",
           "You are a kind assistant."]


def an(w):
    return ("an " if w[0] in "aeiou" else "a ") + w


def cap(s):
    return s[0].upper() + s[1:]


class Gen:
    MIXED = MIXED
    PEOPLE = 2                  # most of a story

    def __init__(self, seed):
        self.r = random.Random(seed)

    def pick(self, xs):
        return self.r.choice(xs)

    def some(self, xs, n):
        return self.r.sample(xs, n)

    # ---- stories ----

    def story(self, name=None, kind=None, color=None, obj=None, place=None):
        """One story; what is given is kept, the rest is drawn.

        Returns the text and the dict of what it is about."""
        r, p = self.r, self.pick
        animal = kind
        if animal is None and r.random() < 0.4:
            animal = p(ANIMALS)
        name = name or p(NAMES)
        girl = name in GIRLS
        he, him, his = (("she", "her", "her") if girl
                        else ("he", "him", "his"))
        color = color or p(COLORS)
        obj = obj or p(OBJECTS)
        place = place or p(PLACES)
        place2 = p([x for x in PLACES if x != place])
        other = p([x for x in NAMES if x != name])
        ogirl = other in GIRLS
        ohe, ohim, ohis = (("she", "her", "her") if ogirl
                           else ("he", "him", "his"))
        oanimal = p([a for a in ANIMALS if a != animal]) if (
            animal or r.random() < 0.3) else None
        who = (p([an(p(["little", "small", "young", "happy", "brave", "kind"])
                    + " " + animal), an(animal)])
               if animal else p(["a little girl", "a girl"] if girl
                                else ["a little boy", "a boy"]))
        owho = an(oanimal) if oanimal else ("a girl" if ogirl else "a boy")
        the = f"the {color} {obj}"
        a_obj = f"{an(color)} {obj}"
        food = FOODS_MANY[p(FOODS)]
        weather = p(WEATHER)
        s = [p([f"Once upon a time there was {who} named {name}.",
                f"There once was {who} named {name}.",
                f"{name} was {who}.",
                f"Once there was {who} whose name was {name}."])]
        s.append(p([f"{name} lived near the {place}.",
                    f"{cap(he)} lived in a small house by the {place}.",
                    f"{cap(he)} liked to play near the {place}.",
                    f"{name} loved the {place} very much."])
                 if place not in ("house",) else
                 p([f"{name} lived in an old house.",
                    f"{cap(he)} lived in a little house."]))
        plot = p(["lost", "share", "gift", "fear", "help", "make"])
        s.append(getattr(self, "plot_" + plot)(locals()))
        s.append(p([f"From that day on, {name} and {other} were good friends.",
                    f"{name} was very happy.",
                    f"That night {name} slept well and dreamed of {the}.",
                    f"{name} and {other} laughed and went home together.",
                    f"Then they all had some {food} and were happy.",
                    f"{name} smiled. It was a good day."]))
        sep = " "
        return sep.join(s), {"name": name, "animal": animal, "color": color,
                             "object": obj, "place": place}

    def meet(self, v):
        name, other, owho = v["name"], v["other"], v["owho"]
        return self.pick([
            f"Then {name} met {owho} named {other}.",
            f"On the way {name} met {other}, {owho}.",
            f"There {name} saw {owho}. The name of the new friend "
            f"was {other}."])

    def plot_lost(self, v):
        p = self.pick
        g = dict(v, **{"meet": self.meet(v)})
        return p([
            "{name} had {a_obj}. One {weather} day {he} could not find it. "
            "{name} looked in the {place} and in the {place2}, but {the} was not there. ",
            "One day {name} lost {the}. {Name2} looked under the bed and behind the door. "
            "It was not there, and {name} was sad. ",
            "One {weather} morning {name} went to the {place2} with {the}. On the way home "
            "{he} saw that {the} was gone. {name} began to cry. ",
        ]).format(**g, Name2=cap(v["he"])) + p([
            "{meet} \"Why are you sad?\" asked {other}. \"I lost my {color} {obj},\" said {name}. "
            "\"I will help you look,\" said {other}. ",
            "{meet} \"Can you help me?\" asked {name}. \"I can not find my {color} {obj}.\" "
            "\"Yes, I can help you,\" said {other}. ",
        ]).format(**g) + p([
            "They looked and looked. At last {other} found {the} under a tree. "
            "\"Thank you!\" said {name}.",
            "They went back to the {place2}. There was {the}, behind a big stone! "
            "{name} jumped for joy.",
            "{other} looked up. {cap_the} was high in a tree. {other} climbed up and "
            "gave it to {name}. \"You are a good friend,\" said {name}.",
        ]).format(**g, cap_the=cap(v["the"]))

    def plot_share(self, v):
        p = self.pick
        g = dict(v, meet=self.meet(v))
        return p([
            "One day {name} got {a_obj}. It was the best {obj} in the {place2}. ",
            "On {his} birthday {name} got {a_obj}. {Name2} played with it all day. ",
        ]).format(**g, Name2=cap(v["he"])) + p([
            "{meet} \"May I play with {the}?\" asked {other}. \"No,\" said {name}. \"It is mine.\" "
            "{other} was sad and went away. ",
            "{meet} {other} had no {obj}. \"Can we play together?\" asked {other}. "
            "At first {name} did not want to share. ",
        ]).format(**g) + p([
            "Soon {name} did not like to play alone. So {he} ran to {other} and said, "
            "\"I am sorry. Let us play with {the} together.\" They played until the sun went down.",
            "But then {name} thought about it. \"It is more fun with a friend,\" {he} said. "
            "So {name} and {other} took turns with {the}.",
        ]).format(**g)

    def plot_gift(self, v):
        p = self.pick
        g = dict(v, meet=self.meet(v))
        return p([
            "{name} had a friend named {other}. It was the birthday of {other}, and {name} "
            "wanted to give {ohim} something nice. ",
            "One {weather} day {name} wanted to make {other} happy. {other} was {owho} and "
            "the best friend of {name}. ",
        ]).format(**g) + p([
            "So {name} went to the {place2} and looked for a gift. There {he} saw {a_obj}. "
            "\"That is just right!\" said {name}. ",
            "{name} went to the market. {Name2} bought {a_obj} and put it in a box. ",
        ]).format(**g, Name2=cap(v["he"])) + p([
            "{other} opened the box and saw {the}. \"Thank you, {name}!\" said {other}. "
            "\"I love it.\"",
            "When {other} saw {the}, {ohe} laughed and danced. \"It is the best gift of all,\" "
            "said {other}.",
        ]).format(**g)

    def plot_fear(self, v):
        p = self.pick
        g = dict(v, meet=self.meet(v))
        return p([
            "{name} was afraid of the dark. One {weather} night {he} heard a noise in the {place2}. ",
            "One {weather} evening {name} was in the {place2}. It was dark, and {he} heard a "
            "strange sound. ",
        ]).format(**g) + p([
            "\"Who is there?\" asked {name}. \"It is only me,\" said {other}. {other} was {owho} "
            "and had {a_obj}. ",
            "{name} wanted to run away. But then {he} saw {owho} with {a_obj}. \"My name "
            "is {other},\" said the stranger. \"Do not be afraid.\" ",
        ]).format(**g) + p([
            "They sat down by {the} and told stories. Soon {name} was not afraid of the dark.",
            "{other} let {name} hold {the}, and they walked home side by side. "
            "{name} felt brave.",
        ]).format(**g)

    def plot_help(self, v):
        p = self.pick
        g = dict(v, meet=self.meet(v))
        return p([
            "One {weather} day {name} walked to the {place2}. {meet} {other} was crying. ",
            "One morning {name} heard someone call for help in the {place2}. It was {other}, "
            "{owho}. ",
        ]).format(**g) + p([
            "\"My {color} {obj} fell into the water,\" said {other}. {name} took a long stick and "
            "pulled {the} out. ",
            "\"My {color} {obj} is broken,\" said {other}. \"I can fix it,\" said {name}. {Name2} "
            "worked hard, and soon {the} was as good as new. ",
        ]).format(**g, Name2=cap(v["he"])) + p([
            "\"You are so kind,\" said {other}. {other} gave {name} some {food}.",
            "\"Thank you for your help,\" said {other}. Then they played with {the} all day.",
        ]).format(**g)

    def plot_make(self, v):
        p = self.pick
        g = dict(v, meet=self.meet(v))
        return p([
            "{name} wanted {a_obj}, but {he} had no money. \"I will make one,\" {he} said. ",
            "It was a {weather} day, and {name} had nothing to do. \"I will make {a_obj},\" "
            "{he} said. ",
        ]).format(**g) + p([
            "{name} worked all morning. It was hard, and {he} was tired. Then {other} came to help. "
            "{other} was {owho} with clever hands. ",
            "First {name} found some wood. Then {he} found some {color} paint. {meet} \"Let me "
            "help you,\" said {other}. ",
        ]).format(**g) + p([
            "At last {the} was ready. All the people in the {place2} came to look at it.",
            "Soon they had a fine {color} {obj}. They took it to the {place2} and played with it.",
        ]).format(**g)

    # ---- conversations ----

    def c_story(self):
        r, p = self.r, self.pick
        ask = {}
        form = r.randrange(9)
        verb = p(["Tell me a story", "Write a story", "Tell me a short story",
                  "Write a short story", "Please tell me a story"])
        if form in (0, 1):
            user = verb
        elif form == 2:
            ask = {"kind": p(ANIMALS)}
            user = f"{verb} about {an(ask['kind'])}"
        elif form == 3:
            ask = {"kind": p(ANIMALS), "name": p(NAMES)}
            user = f"{verb} about {an(ask['kind'])} named {ask['name']}"
        elif form == 4:
            ask = {"name": p(NAMES)}
            user = f"{verb} about {ask['name']}"
        elif form == 5:
            ask = {"color": p(COLORS), "obj": p(OBJECTS)}
            user = f"{verb} about {an(ask['color'])} {ask['obj']}"
        elif form == 6:
            ask = {"name": p(NAMES), "color": p(COLORS), "obj": p(OBJECTS)}
            user = (f"{verb} about {ask['name']} and "
                    f"{an(ask['color'])} {ask['obj']}")
        elif form == 7:
            ask = {"kind": p(ANIMALS), "color": p(COLORS), "obj": p(OBJECTS)}
            user = (f"{verb} about {an(ask['kind'])} and "
                    f"{an(ask['color'])} {ask['obj']}")
        else:
            ask = {"name": p(NAMES), "place": p(PLACES)}
            user = f"{verb} about {ask['name']} in the {ask['place']}"
        user += p([".", ".", ""])
        text, about = self.story(**ask)
        must = [ask[k] for k in ("name", "kind", "color", "obj") if k in ask]
        return {"skill": "story", "turns": [(user, text)], "check": must}

    def phrase(self, k=None):
        """Something to repeat: words (k below 7), among them made-up ones
        (below 9), or else a sentence."""
        r, p = self.r, self.pick
        k = r.randrange(20) if k is None else k
        if k < 7:
            return " ".join(self.some(self.MIXED, r.randint(1, 8)))
        if k < 9:
            return " ".join(self.odd() if r.random() < 0.3 else p(self.MIXED)
                            for _ in range(r.randint(1, 5)))
        thing = lambda: p([f"{p(COLORS)} {p(OBJECTS)}",
                           f"{p(SIZES)} {p(OBJECTS)}", p(OBJECTS),
                           f"{p(SIZES)} {p(ANIMALS)}",
                           f"{p(COLORS)} {p(ANIMALS)}", p(ANIMALS)])
        where = p(["in", "on", "under", "near", "behind", "by"])
        food = lambda: FOODS_MANY[p(FOODS)]
        return p([
            f"the {thing()} is {where} the {p([thing(), p(PLACES)])}",
            f"the {thing()} and the {thing()} are {where} the {p(PLACES)}",
            f"{p(NAMES)} has {an(thing())}",
            f"{p(NAMES)} and {p(NAMES)} like {food()}",
            f"{p(NAMES)} went to the {p(PLACES)} with {an(thing())}",
            f"I like {food()} and {food()}",
            f"it is {p(WEATHER)} in {p(CITIES)} today",
            f"my {p(OBJECTS)} is {p(COLORS)} and {p(SIZES)}",
            f"{p(NAMES)} is a {p(JOBS)} in {p(CITIES)}",
            f"there are {r.randint(2, 99)} {p(OBJECTS)}s {where} the "
            f"{p(PLACES)}"])

    def odd(self):
        """A made-up word or a number, so that copying is not of words."""
        r = self.r
        if r.random() < 0.25:
            return str(r.randint(0, 999))
        return "".join(r.choice("bcdfghjklmnprstvwz") + r.choice("aeiou")
                       for _ in range(r.randint(1, 3)))

    def c_sentence(self):
        return self.c_repeat(19)

    def c_words(self):
        return self.c_repeat(0)

    def c_repeat(self, k=None):
        r, p = self.r, self.pick
        s = self.phrase(k)
        if s.startswith("the ") and r.random() < 0.5:
            s = cap(s)
        if r.random() < 0.3:
            s += p([".", "!", "?", "."])
        user = p(["Repeat after me: {}", "Repeat after me: {}",
                  "Repeat after me: {}", "Repeat: {}", "Say: {}",
                  "Please repeat: {}", "Say this: {}"]).format(s)
        return {"skill": "repeat", "turns": [(user, s)], "check": s}

    FACTS = ("has", "city", "food", "job", "age", "place", "color")

    def fact(self, kind):
        """One fact: (sentence, question, answer)."""
        p = self.pick
        a, b, o = p(NAMES), p(ANIMALS), p(OBJECTS)
        s, q = {
            "has": lambda: (f"{a} has {an(p(COLORS))} {o}.",
                            f"What does {a} have?"),
            "city": lambda: (f"{a} lives in {p(CITIES)}.",
                             f"Where does {a} live?"),
            "food": lambda: (f"{a} likes {FOODS_MANY[p(FOODS)]}.",
                             f"What does {a} like?"),
            "job": lambda: (f"{a} is a {p(JOBS)}.", f"What is {a}?"),
            "age": lambda: (f"{a} is {self.r.randint(3, 99)} years old.",
                            f"How old is {a}?"),
            "place": lambda: (f"The {b} is in the {p(PLACES)}.",
                              f"Where is the {b}?"),
            "color": lambda: (f"The {o} is {p(COLORS)}.",
                              f"What color is the {o}?")}[kind]()
        return s, q, s

    def questions(self, facts, most):
        """A conversation about facts: all of them, then questions."""
        p, r = self.pick, self.r
        ask = [p(facts) for _ in range(r.randint(1, most))]
        turns = [(x[1], x[2]) for x in ask]
        turns[0] = (" ".join(x[0] for x in facts) + " " + ask[0][1],
                    ask[0][2])
        return {"skill": "lookup", "turns": turns, "check": turns[-1][1]}

    def c_lookup(self):
        """Facts of different kinds and questions about some."""
        r, p = self.r, self.pick
        if r.random() < 0.12:
            w, what = p(WORDS), p(["secret word", "password", "magic word"])
            ans = f"The {what} is {w}."
            return {"skill": "lookup", "check": ans, "turns": [
                (f"The {what} is {w}. What is the {what}?", ans)]}
        kinds = self.some(self.FACTS, r.randint(1, 4))
        if "has" in kinds and "color" in kinds:
            kinds.remove("color")
        return self.questions([self.fact(k) for k in kinds], 3)

    def c_which(self):
        """Facts of one kind: who is asked about matters."""
        kind, n, seen = self.pick(self.FACTS), self.r.randint(2, 4), {}
        while len(seen) < n:
            f = self.fact(kind)
            seen[f[1]] = f
        return self.questions(list(seen.values()), 4)

    def c_sum(self, a=None, b=None):
        r, p = self.r, self.pick
        if a is None:
            c = r.randint(0, 20)
            a = r.randint(0, c)
            b = c - a
        form = r.randrange(6)
        user, ans = [
            (f"What is {a} + {b}?", f"{a} + {b} = {a + b}"),
            (f"{a} + {b} =", f"{a} + {b} = {a + b}"),
            (f"{a} + {b}", f"{a} + {b} = {a + b}"),
            (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
            (f"How much is {a} + {b}?", f"{a} + {b} = {a + b}"),
            (f"Add {a} and {b}.", f"{a} + {b} = {a + b}")][form]
        return {"skill": "sum", "turns": [(user, ans)], "check": ans}

    def c_json(self):
        r, p = self.r, self.pick
        fields = {"name": lambda: p(NAMES), "age": lambda: r.randint(1, 99),
                  "color": lambda: p(COLORS), "city": lambda: p(CITIES),
                  "animal": lambda: p(ANIMALS), "food": lambda: p(FOODS),
                  "job": lambda: p(JOBS), "object": lambda: p(OBJECTS),
                  "count": lambda: r.randint(1, 20),
                  "ok": lambda: p([True, False])}
        n = r.randint(1, 4)
        keys = self.some(sorted(fields), n)
        if r.random() < 0.5 and "name" not in keys:
            keys[0] = "name"
        o = {k: fields[k]() for k in keys}
        show = [f"{k} {json.dumps(v) if isinstance(v, bool) else v}"
                for k, v in o.items()]
        lst = (show[0] if n == 1 else
               ", ".join(show[:-1]) + " and " + show[-1])
        user = p(["Give me a JSON object with {}.", "Write JSON with {}.",
                  "Make a JSON object with {}.", "JSON with {}.",
                  "Write a JSON object with {}."]).format(lst)
        ans = json.dumps(o)
        return {"skill": "json", "turns": [(user, ans)], "check": ans}

    def c_count(self):
        r = self.r
        lo = 1 if r.random() < 0.6 else r.randint(0, 80)
        hi = lo + r.randint(2, 7 if r.random() < 0.7 else 20)
        if r.random() < 0.05:
            lo, hi = 1, r.randint(20, 100)
        ans = ", ".join(str(i) for i in range(lo, hi + 1)) + "."
        user = self.pick([f"Count from {lo} to {hi}.",
                          f"Count from {lo} to {hi}"])
        return {"skill": "count", "turns": [(user, ans)], "check": ans}

    def c_talk(self):
        p = self.pick
        can = ("I can tell stories, repeat what you say, look up a fact, "
               "add small numbers, count, and write JSON.")
        hello = "Hello! How can I help you?"
        t = [(["Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Hello.",
               "Hello there!", "hello", "hi"], hello),
             (["Good morning", "Good morning!"], "Good morning! " + hello[7:]),
             (["Say hello", "Say hello.", "Say hello!", "Say hi", "Say hi.",
               "Greet me."], "Hello!"),
             (["How are you?", "How are you today?"],
              "I am fine, thank you. How can I help you?"),
             (["What is your name?", "Who are you?", "What are you?"],
              "My name is Moe. I am a small language model."),
             (["What can you do?", "Help", "Help me", "help"], can),
             (["Thank you", "Thank you!", "Thanks", "Thanks!"],
              "You are welcome!"),
             (["Goodbye", "Bye", "Bye!", "Goodbye!"],
              "Goodbye! Have a nice day."),
             (["Tell me a joke.", "What is the meaning of life?",
               "Who is the president?", "What is the weather today?",
               "Write a poem.", "What time is it?", "Explain nginx.",
               "Write a program.", "What is the capital of France?",
               "Translate this."],
              "I do not know that. " + can)]
        q, a = p(t)
        return {"skill": "talk", "turns": [(p(q), a)], "check": a}

    KINDS = ["c_story", "c_repeat", "c_lookup", "c_which", "c_sum", "c_json",
             "c_count", "c_talk"]
    WEIGHTS = [14, 28, 20, 10, 10, 14, 9, 4]
    MORE = [1, 30, 20, 6, 12, 16, 8, 7]     # of an earlier turn

    def plain(self):
        """A story without a conversation around it."""
        return self.story()[0]

    def chat(self, kind=None):
        r = self.r
        fn = kind or r.choices(self.KINDS, self.WEIGHTS)[0]
        c = getattr(self, fn)()
        c["system"] = self.pick(SYSTEMS) if r.random() < 0.25 else None
        if kind is None and r.random() < 0.25:
            # a longer conversation: what came before does not matter
            for _ in range(r.randint(1, 3)):
                k = r.choices(self.KINDS, self.MORE)[0]
                c["turns"] = getattr(self, k)()["turns"] + c["turns"]
        return c
