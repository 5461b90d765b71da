"""More text for the larger demo model: longer stories with more plots,
questions about a story, and more small tasks.  Built on text.Gen."""

import json

import text
from text import (ANIMALS, CITIES, COLORS, FOODS, FOODS_MANY, GIRLS, JOBS,
                  MIXED, NAMES, OBJECTS, PLACES, WEATHER, WORDS, an, cap)

ONES = ("zero one two three four five six seven eight nine ten eleven twelve "
        "thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
        "twenty").split()
OPPOSITES = [("big", "small"), ("hot", "cold"), ("up", "down"),
             ("day", "night"), ("happy", "sad"), ("old", "new"),
             ("fast", "slow"), ("open", "closed"), ("good", "bad"),
             ("high", "low"), ("wet", "dry"), ("long", "short"),
             ("hard", "soft"), ("light", "dark"), ("first", "last"),
             ("left", "right"), ("early", "late"), ("full", "empty")]
SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack",
          "sheep": "baa", "pig": "oink", "owl": "hoot", "lion": "roar",
          "frog": "ribbit", "horse": "neigh", "mouse": "squeak",
          "hen": "cluck"}

OTHER = ("able above across act afternoon age ago agree alone already "
         "although among amount angry apart apron arm army arrive art "
         "asleep aunt autumn baby bad bake band bank bark barrel base basin "
         "bath bean beat beautiful bed bee behind believe belong belt bench "
         "bend best better bicycle bite bitter blade bless blind blood blow "
         "board body bone born borrow bottom bowl branch brave break "
         "breakfast breath brick bright bring broad broken brother build "
         "burn bush busy butter butterfly buy calm camp candle captain card "
         "care carpet cart case catch cause ceiling center chance cheap "
         "cheek chest chicken child chimney choose church circle class clay "
         "clean clear clever cliff climb cloth cloud coal coast coin "
         "collect comb common complete copper copy corn corner cotton count "
         "courage cousin cover crack crew cross crowd crown cry curtain "
         "curve cushion cut damp dance danger dark daughter dear deep deer "
         "desert desk dinner dirty dish distance ditch double doubt dragon "
         "draw dream dress dry dust eagle ear east easy edge elbow empty "
         "enemy engine enjoy enough evening event exact exercise expect "
         "fact fail fair fairy fall false family famous far fear feather "
         "feed fence fever finger finish fish flag flame flat flight floor "
         "flour fly fold foolish forget fork fortune fresh front fruit "
         "funny fur future gate gather gentle giant gift glad glass glove "
         "glue goose grain grandfather grandmother grape grass greet ground "
         "grow guard guess guest guide gun habit hair half hall hammer "
         "handle happen harbor harvest heart heat heavy hide hollow honest "
         "hook hope horn hospital hot hour huge human hungry hunt hurry "
         "hurt ice idea inside insect iron island ivory jacket jam jelly "
         "job join joke journey joy judge juice king kiss knee knife knock "
         "knot language laugh law lead leather leg lemon lesson lift lip "
         "liquid lock log lonely lose loud love lucky lunch machine magic "
         "map march mark mask master match meal measure meat medicine meet "
         "melt message metal middle minute mistake mix modern money monkey "
         "month mountain moustache mouth mud muscle music nail narrow "
         "nature neck needle neighbor nest net noise north nose notice "
         "ocean offer office oil onion orchard order oven owner pack paint "
         "pair palace pan parcel parent party pass paste patient pattern "
         "pay peace pearl pepper perfect piano picnic piece pillow pin pipe "
         "pity plan plane plate pleasant pocket poem point poison polish "
         "pond poor pot potato pour powder power praise pretty price prince "
         "princess print prize promise proud pull pump pupil push puzzle "
         "queen question quiet race rail reach ready reason record refuse "
         "regret remember repair reply report rest reward rich ride roast "
         "robin rock roof room root rose rough row royal rub rule rush sack "
         "safe sail salt sand save scale science scissors screw search "
         "season seat second secret seed sell send sense separate serious "
         "servant shade shadow shake shallow shame shape sharp sheet shelf "
         "shell ship shirt shock shop shore shout shut shy sick sign "
         "silence silk silver simple sister skin skirt sky sleeve slip "
         "slope smart smell smile smoke smooth snake sneeze soap sock "
         "soldier solid son sorry sour south space spade spark special "
         "spend spider spring square stage stairs stamp state station steam "
         "steel stem step stick sticky stiff stocking stomach stop store "
         "storm straight strange straw street strength stretch strong "
         "sudden sugar suit summer supper surprise sweet sword tail taste "
         "tax tea tear tent thank thick thief thin thousand thread throat "
         "throne thumb thunder ticket tie tight tired toe tongue tool tooth "
         "top touch towel tower toy trade train trap travel treasure trick "
         "trouble true trumpet trust twin umbrella uncle understand uniform "
         "useful valley vase velvet vessel victory view violin visit voice "
         "waist wait wake warn wash waste watch wave wax wealth weapon "
         "weather week weight welcome west wet wheat whip wide wife wild "
         "wine wing winter wire wise wish wolf woman wonder wood wool worm "
         "wound wrist wrong yard yesterday young").split()


class Gen(text.Gen):
    MIXED = MIXED + OTHER
    PEOPLE = 3
    KINDS = text.Gen.KINDS + ["c_ask", "c_small"]
    WEIGHTS = [8, 28, 18, 14, 15, 16, 4, 4, 10, 9]
    MORE = [1, 24, 14, 12, 14, 14, 3, 6, 3, 10]

    # ---- stories ----

    def story(self, name=None, kind=None, color=None, obj=None, place=None):
        r, p = self.r, self.pick
        if r.random() < 0.35:
            return super().story(name, kind, color, obj, place)
        v = {"animal": kind, "name": name or p(NAMES),
             "color": color or p(COLORS), "obj": obj or p(OBJECTS),
             "place": place or p(PLACES)}
        if kind is None and r.random() < 0.4:
            v["animal"] = p(ANIMALS)
        v["place2"] = p([x for x in PLACES if x != v["place"]])
        v["other"] = p([x for x in NAMES if x != v["name"]])
        v["third"] = p([x for x in NAMES if x not in (v["name"],
                                                      v["other"])])
        for n, pre in (("name", ""), ("other", "o"), ("third", "t")):
            girl = v[n] in GIRLS
            v[pre + "he"] = "she" if girl else "he"
            v[pre + "him"] = "her" if girl else "him"
            v[pre + "his"] = "her" if girl else "his"
            v[pre + "He"] = cap(v[pre + "he"])
        v["who"] = self.creature(v["animal"], v["name"])
        v["owho"] = self.creature(
            p([a for a in ANIMALS if a != v["animal"]])
            if v["animal"] or r.random() < 0.3 else None, v["other"])
        v["the"] = f"the {v['color']} {v['obj']}"
        v["The"] = cap(v["the"])
        v["a"] = f"{an(v['color'])} {v['obj']}"
        v["food"] = FOODS_MANY[p(FOODS)]
        v["weather"], v["trait"] = p(WEATHER), p(self.TRAITS)
        say = lambda xs: p(xs).format(**v)
        s = [say(self.BEGIN), say(self.HOME)]
        if r.random() < 0.5:
            s.append(say(self.MORE_OF))
        s += [say(x) for x in p(self.PLOTS)]
        s.append(say(self.END))
        return " ".join(s), dict(v, object=v["obj"])

    def creature(self, animal, name):
        p = self.pick
        if animal:
            return p([an(p(["little", "small", "young", "gray old", "clever"])
                         + " " + animal), an(animal)])
        return p([f"a {w}" + ("girl" if name in GIRLS else "boy")
                  for w in ("", "little ", "young ", "clever ")])

    TRAITS = ["kind", "brave", "shy", "funny", "quiet", "curious", "proud",
              "clever", "careful", "cheerful"]
    BEGIN = ["Once upon a time there was {who} named {name}.",
             "Once there was {who} whose name was {name}.",
             "{name} was {who}. {He} was very {trait}.",
             "In a place far away there lived {who}. {He} was called {name}.",
             "Long ago, {who} named {name} lived near a {place2}."]
    HOME = ["{name} liked to walk near the {place}.",
            "Every morning {name} went to the {place}.",
            "{name} lived near the {place} with {his} mother.",
            "All day long {he} played near the {place}."]
    MORE_OF = ["{name} had many friends, but {other} was the best of them.",
               "{He} was {trait}, and everyone liked {him}.",
               "{name} liked to eat {food} more than anything.",
               "When it was {weather}, {he} stayed at home and read a book.",
               "At night {he} looked at the moon and the stars."]
    PLOTS = [
        [["One {weather} day {name} found {a} under a tree.",
          "One morning {a} lay on the road to the {place2}, and {name} saw it."],
         ["\"Whose {obj} is this?\" {he} asked. Nobody knew.",
          "{He} picked it up. \"Someone must have lost it,\" {he} said."],
         ["{name} asked {third}, but {third} said, \"It is not mine.\"",
          "{He} went from door to door and asked. At the first door {third} said no."],
         ["Then {other}, {owho}, came along the road and cried. \"I lost {the},\" said {other}.",
          "At last {he} met {other}, {owho}. \"Have you seen {a}?\" asked {other}."],
         ["{name} gave it back at once. \"You are honest,\" said {other}, and gave {him} some {food}.",
          "\"Here it is,\" said {name}. {other} was so glad that {ohe} danced."]],
        [["One {weather} day {name} and {other} wanted to know who was faster.",
          "{other}, {owho}, laughed at {name}. \"I am faster than you,\" said {other}."],
         ["They ran from the {place} to the {place2}. {A_prize} was the prize.",
          "\"Let us race to the {place2},\" said {name}. \"Who wins gets {the}.\""],
         ["{other} ran fast, but then {ohe} stopped to eat {food}.",
          "{other} was far in front. Then {ohe} sat down under a tree and fell asleep."],
         ["{name} did not stop. Step by step {he} came closer.",
          "{name} went on and on and did not rest."],
         ["So {name} won {the}. {other} was not angry. \"Well done,\" said {other}.",
          "{name} came first and got {the}. \"Next time I will not stop,\" said {other}."]],
        [["It was a {weather} day, and {name} wanted to bake a cake for {other}.",
          "Tomorrow was the birthday of {other}, {owho}, and {name} had a plan."],
         ["{He} needed {food}, so {he} went to the market with {a}.",
          "{He} took {the} and went to the {place2} to ask {third} for {food}."],
         ["On the way home it began to rain, and {name} hid under a tree.",
          "The road was long, and {name} was tired, but {he} did not give up."],
         ["{third} came by and helped {him} carry everything.",
          "\"Let me help,\" said {third}, and together it was easy."],
         ["When {other} saw the cake and {the}, {ohe} was happy all day.",
          "In the evening {name} gave {other} the cake and {the}. \"Thank you,\" said {other}."]],
        [["One {weather} night {name} heard a sound in the {place2}.",
          "One evening, when it was dark, something moved behind the {place2}."],
         ["{He} was afraid, but {he} took {a} and went to look.",
          "\"I must be brave,\" said {name}. {He} held {the} in {his} hand and went out."],
         ["It was {other}, {owho}, who was lost and cold.",
          "There sat {other}, {owho}. \"I can not find my way home,\" said {other}."],
         ["{name} took {ohim} inside and gave {ohim} warm milk and {food}.",
          "\"Come with me,\" said {name}. They sat by the fire and ate {food}."],
         ["In the morning they walked home together. {other} kept {the} as a gift.",
          "The next day {name} showed {ohim} the way, and gave {ohim} {the} to keep."]],
        [["{name} had {a}. It was very old, but {he} loved it.",
          "The grandmother of {name} gave {him} {a}. \"Take good care of it,\" she said."],
         ["One {weather} day {other}, {owho}, took {the} and did not ask.",
          "{other}, {owho}, wanted to play with {the}, but {ohe} let it fall."],
         ["When {name} saw it, {he} was angry and did not want to talk.",
          "\"Oh no!\" cried {name}. {He} ran away to the {place2}."],
         ["{other} felt bad. {third} said, \"Go and say that you are sorry.\"",
          "\"What can I do?\" asked {other}. \"Say that you are sorry,\" said {third}."],
         ["So {other} said, \"I am sorry.\" And {name} said, \"It is all right. We are still friends.\"",
          "{other} went to {name} and gave {the} back. They shook hands and smiled."]],
        [["{name} wanted to see the world, so {he} put {a} in a bag and went away.",
          "One {weather} morning {name} took {the} and left {his} home to see the {place2}."],
         ["First {he} met {third}, who was {job}. \"Stay with me,\" said {third}. But {name} went on.",
          "{He} walked for three days. {third} gave {him} {food} and a place to sleep."],
         ["Then {he} came to a wide river. There was no bridge.",
          "Then {he} came to a high hill, and the way was hard."],
         ["{other}, {owho}, said, \"Give me {the}, and I will help you.\" So {name} did.",
          "\"I know the way,\" said {other}, {owho}. \"Follow me.\" And {name} showed {ohim} {the}."],
         ["At the end {name} saw that home was the best place of all, and {he} went back.",
          "From there {he} could see everything. \"The world is big,\" said {name}, \"but now I want to go home.\""]],
    ]
    for _plot in PLOTS:
        for _part in _plot:
            for _i, _s in enumerate(_part):
                _part[_i] = (_s.replace("{A_prize}", "A {color} {obj}")
                             .replace("{job}", "a baker"))
    END = ["From that day on, {name} and {other} were good friends.",
           "{name} never forgot that day.", "And that was the end of a good day.",
           "{name} went to bed and slept well.",
           "So {name} learned that a friend is better than {a}.",
           "They laughed and had {food} together."]

    # ---- more tasks ----

    def c_ask(self):
        """A short story and questions about it."""
        p = self.pick
        n, o = self.some(NAMES, 2)
        color, obj = p(COLORS), p(OBJECTS)
        animal, place, place2 = p(ANIMALS), *self.some(PLACES, 2)
        food, job = FOODS_MANY[p(FOODS)], p(JOBS)
        s = [f"{n} was {an(animal)} and lived near the {place}.",
             p([f"One day {n} found {an(color)} {obj} in the {place2}.",
                f"One day {n} bought {an(color)} {obj} in the {place2}."]),
             p([f"{n} gave the {obj} to {o}, a {job}.",
                f"Then {n} met {o}, a {job}, and showed {o} the {obj}."]),
             f"They had some {food}."]
        found = "found" if "found" in s[1] else "bought"
        q = [(f"What was {n}?", f"{n} was {an(animal)}."),
             (f"Where did {n} live?", f"{n} lived near the {place}."),
             (f"What color was the {obj}?", f"The {obj} was {color}."),
             (f"Where was the {obj} {found}?",
              f"The {obj} was {found} in the {place2}."),
             (f"What was {o}?", f"{o} was a {job}."),
             ("What did they have?", f"They had some {food}."),
             (f"Who {found} the {obj}?", f"{n} {found} the {obj}.")]
        q = self.some(q, self.r.randint(1, 3))
        turns = [(" ".join(s) + " " + q[0][0], q[0][1])] + q[1:]
        return {"skill": "ask", "turns": turns, "check": turns[-1][1]}

    def c_sum(self, a=None, b=None):
        if a is not None or self.r.random() < 0.6:
            return super().c_sum(a, b)
        r = self.r
        if r.random() < 0.5:
            a = r.randint(0, 20)
            b = r.randint(0, a)
            u, s = self.pick([(f"What is {a} - {b}?", f"{a} - {b} = {a - b}"),
                              (f"{a} - {b}", f"{a} - {b} = {a - b}"),
                              (f"What is {a} minus {b}?",
                               f"{a} minus {b} is {a - b}.")])
        else:
            a = r.randint(0, 10) * 10
            b = r.randint(0, 10 - a // 10) * 10
            u, s = self.pick([(f"What is {a} + {b}?", f"{a} + {b} = {a + b}"),
                              (f"{a} + {b}", f"{a} + {b} = {a + b}")])
        return {"skill": "sum", "turns": [(u, s)], "check": s}

    def c_json(self):
        r, p = self.r, self.pick
        if r.random() < 0.7:
            return super().c_json()
        what, pool = p([("names", NAMES), ("colors", COLORS),
                        ("animals", ANIMALS), ("cities", CITIES)])
        xs = self.some(pool, r.randint(2, 5))
        lst = ", ".join(xs[:-1]) + " and " + xs[-1]
        if r.random() < 0.5:
            u, s = f"Make a JSON array of {lst}.", json.dumps(xs)
        else:
            u = f"Write a JSON object with {what} {lst}."
            s = json.dumps({what: xs})
        return {"skill": "json", "turns": [(u, s)], "check": s}

    def c_small(self):
        r, p = self.r, self.pick
        k = r.randrange(10)
        ws = self.some(MIXED, r.randint(3, 6))
        if k == 0:
            u, s = "What is the first word of: {}", ws[0]
        elif k == 1:
            u, s = "What is the last word of: {}", ws[-1]
        elif k == 2:
            u, s = "Write a comma between the words: {}", ", ".join(ws)
        elif k == 3:
            a, b = p(OPPOSITES)
            if r.random() < 0.5:
                a, b = b, a
            u, s = f"What is the opposite of {a}?", f"The opposite of {a} is {b}."
        elif k == 4:
            a = p(sorted(SOUNDS))
            u, s = f"What does the {a} say?", f"The {a} says {SOUNDS[a]}."
        elif k == 5:
            i = r.randint(0, 20)
            u, s = p([(f"Write {i} as a word.", ONES[i]),
                      (f"Write {ONES[i]} as a number.", str(i))])
        elif k == 6:
            what, pool = p([("animals", ANIMALS), ("colors", COLORS),
                            ("names", NAMES), ("foods", FOODS)])
            xs = self.some(pool, 3)
            u = f"Which of these are {what}: {{}}?"
            ws = xs + self.some(PLACES, 2)
            r.shuffle(ws)
            s = ", ".join(w for w in ws if w in xs)
        elif k == 7:
            i, j = self.some(range(1, 100), 2)
            u, s = f"Which is larger, {i} or {j}?", f"{max(i, j)} is larger."
        elif k == 8:
            i = r.randint(1, 99)
            u, s = f"What comes after {i}?", f"{i + 1} comes after {i}."
        else:
            w, n = p(WORDS), r.randint(2, 5)
            u, s = f"Say {w} {ONES[n]} times.", " ".join([w] * n)
        u = u.format(" ".join(ws))
        return {"skill": "small", "turns": [(u, s)], "check": s}

    def chat(self, kind=None):
        c = super().chat(kind)
        if kind is None and self.r.random() < 0.03:
            n = self.pick(NAMES)
            q = self.pick(["What is your name?", "Who are you?"])
            c = {"skill": "talk", "check": f"My name is {n}.",
                 "turns": [(q, f"My name is {n}.")],
                 "system": self.pick([f"Your name is {n}.",
                                      f"You are {n}. Be brief."])}
        return c
