"""Makes the lines on which our tokenizers are compared with the reference.

    python3 tools/tokenizers/lines.py t/golden/tokenizer/lines.bin

The output is a run of records: a LEB128 length, then so many bytes.  It is the
same at every run (one seed), holds invalid UTF-8 on purpose, and only
characters of Unicode 13, which all libraries in use know.
"""

import random
import sys
import unicodedata

SEED = 20240607
COUNT = 10200

SCRIPTS = {
    "latin": [(0x61, 0x7A)], "LATIN": [(0x41, 0x5A)],
    "latin1": [(0xC0, 0x17F)], "latinx": [(0x180, 0x24F), (0x1E00, 0x1EFF)],
    "ipa": [(0x250, 0x2FF)], "greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    "cyrillic": [(0x400, 0x4FF)], "cyrillicx": [(0x500, 0x52F)],
    "armenian": [(0x531, 0x58A)], "hebrew": [(0x591, 0x5F4)],
    "arabic": [(0x600, 0x6FF)], "arabicx": [(0x750, 0x77F), (0xFB50, 0xFDFB)],
    "syriac": [(0x700, 0x74F)], "thaana": [(0x780, 0x7B1)],
    "nko": [(0x7C0, 0x7FA)], "devanagari": [(0x900, 0x97F)],
    "bengali": [(0x980, 0x9FE)], "gurmukhi": [(0xA01, 0xA76)],
    "gujarati": [(0xA81, 0xAFF)], "oriya": [(0xB01, 0xB77)],
    "tamil": [(0xB82, 0xBFA)], "telugu": [(0xC00, 0xC7F)],
    "kannada": [(0xC80, 0xCF2)], "malayalam": [(0xD00, 0xD7F)],
    "sinhala": [(0xD81, 0xDF4)], "thai": [(0xE01, 0xE5B)],
    "lao": [(0xE81, 0xEDF)], "tibetan": [(0xF00, 0xFDA)],
    "myanmar": [(0x1000, 0x109F)], "georgian": [(0x10A0, 0x10FF)],
    "jamo": [(0x1100, 0x11FF)], "ethiopic": [(0x1200, 0x137C)],
    "cherokee": [(0x13A0, 0x13FD), (0xAB70, 0xABBF)],
    "canadian": [(0x1400, 0x167F)], "ogham": [(0x1680, 0x169C)],
    "runic": [(0x16A0, 0x16F8)], "khmer": [(0x1780, 0x17F9)],
    "mongolian": [(0x1800, 0x18AA)], "balinese": [(0x1B00, 0x1B7C)],
    "tifinagh": [(0x2D30, 0x2D7F)], "hiragana": [(0x3041, 0x309F)],
    "katakana": [(0x30A0, 0x30FF), (0x31F0, 0x31FF)],
    "bopomofo": [(0x3105, 0x312F)], "han": [(0x4E00, 0x9FA5)],
    "hanx": [(0x9FA6, 0x9FFC), (0x3400, 0x4DBF), (0x20000, 0x2A6DD)],
    "hancompat": [(0xF900, 0xFAD9), (0x2F800, 0x2FA1D)],
    "yi": [(0xA000, 0xA4C6)], "vai": [(0xA500, 0xA62B)],
    "hangul": [(0xAC00, 0xD7A3)], "full": [(0xFF01, 0xFFEE)],
    "gothic": [(0x10330, 0x1034A)], "deseret": [(0x10400, 0x1044F)],
    "cuneiform": [(0x12000, 0x12399)], "hieroglyph": [(0x13000, 0x1342E)],
    "adlam": [(0x1E900, 0x1E95F)], "mathalpha": [(0x1D400, 0x1D7FF)],
}

OTHERS = {
    "punct": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "punctx": [(0x2010, 0x2027), (0x2030, 0x205E), (0x3001, 0x3020)],
    "currency": [(0x20A0, 0x20BF)], "letterlike": [(0x2100, 0x214F)],
    "numberforms": [(0x2150, 0x218B), (0x2460, 0x24FF), (0xB2, 0xB3)],
    "arrows": [(0x2190, 0x21FF)], "math": [(0x2200, 0x22FF)],
    "technical": [(0x2300, 0x23FF)], "box": [(0x2500, 0x25FF)],
    "dingbats": [(0x2600, 0x27BF)], "braille": [(0x2800, 0x28FF)],
    "emoji": [(0x1F300, 0x1F64F), (0x1F680, 0x1F6D7), (0x1F900, 0x1F9FF)],
    "marks": [(0x300, 0x36F), (0x1DC0, 0x1DF9), (0x20D0, 0x20F0)],
    "variation": [(0xFE00, 0xFE0F)], "private": [(0xE000, 0xE010)],
    "tags": [(0xE0020, 0xE007F)],
    "format": [(0xAD, 0xAD), (0x200B, 0x200F), (0x202A, 0x202E),
               (0x2060, 0x2064), (0xFEFF, 0xFEFF), (0x180E, 0x180E)],
    "control": [(0, 8), (0xE, 0x1F), (0x7F, 0x9F)],
    "nonchar": [(0xFFFE, 0xFFFF), (0x1FFFE, 0x1FFFF), (0x10FFFE, 0x10FFFF)],
}

DIGITS = [0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xE50, 0xFF10, 0x1D7CE]

SPACES = ["", " ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\r\n",
          "\r", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\v",
          "\f", "\u2028", "\u2029", "\u180e", "\u200b", "\u1680", "\u202f"]

SENTENCES = """All human beings are born free and equal in dignity and rights.
Toate fiinţele umane se nasc libere și egale în demnitate și în drepturi.
Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.
Wszyscy ludzie rodzą się wolni i równi w swojej godności i prawach.
Tous les êtres humains naissent libres et égaux en dignité et en droits.
Alle Menschen sind frei und gleich an Würde und Rechten geboren; ẞ und ß.
Todos los seres humanos nacen libres e iguales. ¿Verdad? ¡Sí!
Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.
Minden emberi lény szabadon születik és egyenlő méltósága és joga van.
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Iı İi.
Все люди рождаются свободными и равными в своём достоинстве и правах.
Усі люди народжуються вільними і рівними у своїй гідності та правах.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.
تمام انسان‌ها آزاد زاده می‌شوند و از نظر حیثیت و حقوق برابرند.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।
மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ
ທຸກຄົນເກີດມາມີສິດເສລີພາບ ແລະ ສະເໝີໜ້າກັນ.
လူတိုင်းသည် တူညီလွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများဖြစ်သည်။
ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებით.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար։
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。
人人生而自由,在尊嚴和權利上一律平等。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.
ሰው፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።
ꦱꦧꦼꦤꦺꦴꦁ is Javanese, ᏣᎳᎩ is Cherokee, ⵜⴰⵎⴰⵣⵉⵖⵜ is Tamazight.
I'll we're they've she'd it's I'M WE'LL 'tis rock'n'roll don't DON'T y'all'd've
The ﬁrst ﬂight of ℌ𝔢𝔩𝔩𝔬 Ⅷ ½ ²³ ﷺ ㎞ Å Å ſ K Ω"""

CODE = [
    "#include <stdio.h>\n\nint\nmain(void)\n{\n    printf(\"%d\\n\", 42);\n"
    "    return 0;\n}\n",
    "for (size_t i = 0; i < n; i++) { a[i] += b[i] * 3.14159e-10f; }",
    "def f(x: int) -> str:\n\treturn f\"{x:>08.3f}\" if x != 0 else 'zero'\n",
    "const x = async () => { await fetch(`/api/${id}?q=1&r=2`) }; // TODO",
    "SELECT * FROM users WHERE name LIKE '%O''Brien%' AND id >= 1000000;",
    "<div class=\"a b\" id='c'>&nbsp;<br/></div><!-- note -->",
    "{\"key\": [1, 2.5, -3e+7, null, true], \"\\u00e9\": {}}",
    "if [ \"$#\" -ne 2 ]; then echo 'usage: $0 a b' >&2; exit 1; fi",
    "fn main() { let v: Vec<u8> = vec![0x1F, 0b1010]; println!(\"{:?}\", v); }",
    "\\begin{equation}\\sum_{i=0}^{n} \\frac{x_i^2}{2} \\end{equation}",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n* **bold** _it_ `code` [l](http://x.y)",
    "https://example.org/a/b.html?x=%20&y=1#frag user@example.org 10.0.0.1:80",
    "0123456789 1,234,567.89 1e10 0xDEADBEEF 3.14.15 12:34:56 2024-06-07",
    "\t\tmov\teax, [rbx+8*rcx-0x10]\t; load\n\t\tjne\t.L1",
    "git commit -m \"fix: don't panic\" && make -j$(nproc) || exit $?",
    "\x1b[31mred\x1b[0m \x00\x01\x02 \b\x7f", "C:\\Users\\x\\a.txt\r\n",
    "------------------------------====================***************",
    "                                        deep indentation    ",
    "_snake_case camelCase PascalCase SCREAMING_CASE kebab-case x1y2z3",
    "((((((((((()))))))))))[[[[]]]]{{{{}}}}<<<<>>>>;;;;,,,,....!!!!????",
]

EMOJI = ["👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷🇩🇪🇯🇵", "👩🏽‍💻", "❤️", "1️⃣", "🤷🏻‍♂️", "😀😀😀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☃", "☃️",
         "🧑‍🚀", "👍🏿"]

TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>",
          "<tool_call>", "</tool_call>", "<｜User｜>", "<｜Assistant｜>",
          "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|EOT|>",
          "<｜fim▁hole｜>", "<｜tool▁sep｜>", "<|start|>", "<|message|>",
          "<|channel|>", "<|end|>", "<|return|>", "<s>", "</s>", "<unk>",
          "<0x0A>", "▁", "▁▁", "<|im_start", "im_end|>", "<|", "｜>", "[INST]",
          "<｜place▁holder▁no▁7｜>", "<|vision_pad|>", "<|startoftext|>"]

INVALID = [b"\x80", b"\xbf", b"\xc0\xaf", b"\xc1\x81", b"\xc3", b"\xe2\x82",
           b"\xe2", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xe0\x80\x80",
           b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf0", b"\xf0\x8f\xbf\xbf",
           b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xfe\xff",
           b"\xf8\x88\x80\x80\x80", b"\xe2\x28\xa1", b"\xf0\x9f\x98\xc3\xa9"]


def known(cp):
    if 0xD800 <= cp < 0xE000:
        return False
    category = unicodedata.category(chr(cp))
    return category != "Cn" or (cp & 0xFFFE) == 0xFFFE


def pool(ranges):
    return [chr(c) for a, b in ranges for c in range(a, b + 1) if known(c)]


class Lines:

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.scripts = {k: pool(v) for k, v in SCRIPTS.items()}
        self.others = {k: pool(v) for k, v in OTHERS.items()}
        self.words = SENTENCES.split()

    def word(self, letters, most=7):
        return "".join(self.r.choice(letters)
                       for _ in range(self.r.randint(1, most)))

    def script(self):
        letters = self.scripts[self.r.choice(list(self.scripts))]
        parts = []
        for _ in range(self.r.randint(1, 4)):
            parts.append(self.word(letters))
            parts.append(self.r.choice([" ", " ", " ", "", ", ", "\n", "-"]))
        return "".join(parts)

    def other(self):
        chars = self.others[self.r.choice(list(self.others))]
        return self.word(self.r.choice([chars, chars, list("ab 1.") + chars]))

    def number(self):
        zero = self.r.choice(DIGITS + [0x30] * 6)
        digits = [chr(zero + d) for d in range(10)]
        return self.word(digits, 12)

    def sentence(self):
        n = self.r.randint(1, 5)
        at = self.r.randrange(len(self.words))
        return " ".join(self.words[at:at + n])

    def code(self):
        text = self.r.choice(CODE)
        at = self.r.randrange(len(text))
        return text[at:at + self.r.randint(4, 40)]

    def spaces(self):
        return "".join(self.r.choice(SPACES)
                       for _ in range(self.r.randint(1, 4)))

    def marks(self):
        base = self.r.choice("aeiouEsn가각한かは9 <>")
        return base + self.word(self.others["marks"], 4)

    def runs(self):
        c = self.r.choice(list(" \t\n\r=-#aA0.!?<'\"/\\_|é中あ가😀ا\u0301"))
        return c * self.r.choice([2, 3, 4, 5, 8, 16, 17, 31])

    def piece(self):
        kinds = [self.script] * 5 + [self.other] * 2 + [self.number] * 2 + [
            self.sentence, self.sentence, self.sentence, self.code, self.code,
            self.spaces, self.marks, self.runs,
            lambda: self.r.choice(EMOJI), lambda: self.r.choice(TOKENS),
            lambda: self.r.choice("'s 't 're 'VE 'm 'll 'D 'ſ ’s".split())]
        return self.r.choice(kinds)()

    def line(self):
        text = "".join(self.piece() + self.r.choice(["", "", " "])
                       for _ in range(self.r.choice([1, 1, 1, 2, 2, 3])))
        data = text.encode("utf-8")
        kind = self.r.random()
        if kind < 0.10:
            at = self.r.randrange(len(data) + 1)
            data = data[:at] + self.r.choice(INVALID) + data[at:]
        elif kind < 0.13:
            data = data[self.r.randrange(len(data)):]
        elif kind < 0.15:
            data = bytes(self.r.randrange(256)
                         for _ in range(self.r.randint(1, 12)))
        return data[:140]

    def fixed(self):
        out = [b"", b" ", b"\n", b"\x00"]
        out += [s.encode() for s in SENTENCES.split("\n")]
        out += [c.encode() for c in CODE + EMOJI + TOKENS + SPACES]
        out += INVALID
        for c in "a= \n中é0😀":
            out.append((c * 300).encode())
        out.append(self.word(list("abcdefgh"), 1).encode() * 100)
        out.append("".join(self.r.choice("abcde") for _ in range(900)).encode())
        out.append("".join(self.r.choice(self.scripts["han"])
                           for _ in range(200)).encode())
        out.append("".join(self.r.choice(self.others["marks"])
                           for _ in range(200)).encode())
        return out

    def all(self, count):
        lines = self.fixed()
        while len(lines) < count:
            lines.append(self.line())
        return lines


def leb128(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def main():
    lines = Lines(SEED).all(COUNT)
    with open(sys.argv[1], "wb") as f:
        for line in lines:
            f.write(leb128(len(line)) + line)
    print(len(lines), "lines,", sum(map(len, lines)), "bytes")


if __name__ == "__main__":
    main()
