#!/usr/bin/env python3
"""Writes vectors.jsonl beside this file: our own texts and their ids by Hugging Face tokenizers (pip install tokenizers).

A line is {"text": ..., "ids": [added tokens matched], "plain": [added tokens as plain text]}; "plain" only where it
differs. Run by hand; the tests read the result. --long prints the rows of long texts in tests/unit/test_tokenizer.c instead.
"""
import gzip
import json
import pathlib
import random
import sys

from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent

SENTENCES = """
The quick brown fox jumps over the lazy dog.
She hadn't fathomed it, they'd said; we'll see what he's got, I'm sure you're right, they've gone.
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, Straße, Öl, Übermut.
Portez ce vieux whisky au juge blond qui fume ; l’été, où çà ? « Bien sûr ! »
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío. ¿Qué? ¡Así!
Pchnąć w tę łódź jeża lub ośm skrzyń fig. Zażółć gęślą jaźń.
Příliš žluťoučký kůň úpěl ďábelské ódy.
Съешь ещё этих мягких французских булок, да выпей чаю. Ъ, ы, ё.
Жебракують філософи при ґанку церкви в Гадячі, ще й шатро їхнє п'яне знаємо.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Τάχιστη αλώπηξ.
Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul, ığdır.
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق، ١٢٣٤٥؟
מַה נִּשְׁתַּנָּה הַלַּיְלָה הַזֶּה? דג סקרן שט בים מאוכזב ולפתע מצא חברה.
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। १२३४
বাংলা ভাষায় একটি বাক্য লেখা হলো। ৫৬৭
யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம்.
అన్ని వేళలా మంచి జరగాలి. ಕನ್ನಡ ನುಡಿ. മലയാളം ഭാഷ. ગુજરાતી. ਪੰਜਾਬੀ. සිංහල.
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓
ພາສາລາວ ສະບາຍດີ. ខ្ញុំចង់ទៅផ្ទះ។ မြန်မာဘာသာစကား။ བོད་སྐད་ཡིག
Do bạch kim rất quý nên sẽ dùng để lắp vô xương. Tiếng Việt có dấu.
いろはにほへと ちりぬるを ワカヨタレソ ツネナラム、日本語の文章です。「はい」と言った。ｶﾀｶﾅ ＡＢＣ１２３
我能吞下玻璃而不伤身体。今天天气真好，我们去公园吧！價格是￥１２８，００元。
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. ㅋㅋㅋ
ქართული ენა. Հայերեն լեզու։ አማርኛ ቋንቋ። ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ. ᐃᓄᒃᑎᑐᑦ. ᚠᚢᚦᚨᚱᚲ. 𐌰𐌱𐌲 𓀀𓁐 𒀀𒁀 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚
""".strip().split("\n")

CODE = [
    "int main(void)\n{\n    printf(\"%d\\n\", 0x7fff);\n\treturn 0;\n}\n",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n\n\nclass A(B):\n        pass\n",
    "SELECT a.id, COUNT(*) FROM t AS a WHERE a.x >= 10.5 AND b <> 'it''s';",
    "<div class=\"a b\" id='c'><p>&nbsp;&lt;</p></div>\r\n<!-- x -->\r\n",
    "{\"k\": [1, 2.5e-10, null, true], \"s\": \"\\u00e9\\n\"}",
    "#!/bin/sh\nset -eu\nfor f in *.c; do echo \"$f\" | sed 's/\\.c$/.o/'; done\n",
    "https://example.org/a/b?c=d&e=%20f#g mailto:x.y+z@example.org C:\\Users\\me\\file.txt",
    "fn main() { let v: Vec<u8> = vec![1, 2]; println!(\"{:?}\", v); }",
    "$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$",
    "a+=b-->c!=d&&e||f??g::h->i=>j<=>k//l/*m*/n__o__p...q~!@#$%^&*()_+`-=[]{}|;':\",./<>?",
    "camelCaseHTTPServer2Go snake_case_name SCREAMING_CASE kebab-case x86_64 utf8mb4",
    "diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old\n+new\n \n",
]

EDGES = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\r\n", "\r", "\t", "\t\t ", " \n ", "\n \n  \n", "a \n b", "x  y   z",
    "end ", "end  ", "end\n", "end \n\n  ", " lead", "   lead", "\n  lead", "\tlead", "a\u00a0b", "\u3000全角　空白\u3000",
    "\u2003\u2009em thin", "\u0085next\u2028line\u2029par", "\u200bzero\u200dwidth\ufeffbom", "\u180emongol\u180e",
    "0", "12", "123", "1234", "12345", "1234567890", "3.14159", "1,000,000", "1e10", "x1y22z333w4444", "½²³①Ⅷ", "1 2  3",
    "٣٤٥٦٧", "१२३४५", "a1b", "!abc", "!!abc", "! abc", " !abc", "'s", "'S", "it's", "IT'S", "\"quoted\"", "(a)(b)", "_x", "-x",
    "..x", "x..", "…", "—dash—", "«q»", "“q”", "！全角", "。句", "、", "¡hola!", "a!b?c", "?!\n\n", ".\n.", "=====\n", "-----",
    "e\u0301", "\u0301", "\u0301\u0301x", " \u0301", "1\u0301", "a\u0300\u0301\u0302b", "नि", "\u200d\u0301", "ﬁ ﬂ", "ß ẞ",
    "👍", "👍🏽", "👩\u200d👩\u200d👧\u200d👦", "🇩🇪🇫🇷", "❤️", "1️⃣", "🙂🙃", "a🙂b", " 🙂 ", "🩷🩵🩶", "🫨", "🫩 x", "a🪿b🫎", "\U0001f6dc", "\U00031350x",
    "中a文", "中1文", "中 文", "中，文", "中\n文", "漢字かなカナ", "ーー", "々〆ヶ", "龥龦", "㐀㐁", "𠀀𠀁", "ヿ゠", "ぁ゚", "한국어 漢字",
    "\x00", "a\x00b", "\x01\x02\x03", "\x7f", "\u0080\u009f", "\ufffd", "\uffff\U0010ffff", "\ue000", "\U000e0001",
    "a" * 300, "ab" * 200, " " * 300, "\n" * 300, "7" * 100, "!" * 200, "中" * 200, "é" * 150, "🙂" * 60, "\t \n" * 80,
    "A" * 65, "aA" * 40, "haha" * 50, "-" * 500, "=" * 77, " \u00a0" * 40, "\u0301" * 50, "the " * 60, "0123456789" * 12,
]

CONTROL = [
    "<｜begin▁of▁sentence｜><｜User｜>Hello<｜Assistant｜><think>\nHm.\n</think>Hi!<｜end▁of▁sentence｜>",
    "<think>", "</think>", "< think>", "<think", "think>", "<<think>>", "<think><think></think>", "a<think>b", " <think> ",
    "｜DSML｜", "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">", "</｜DSML｜invoke>", "｜｜DSML｜｜", "<｜User", "<｜User｜", "<|User|>",
    "<｜fim▁begin｜>def f():\n<｜fim▁hole｜>\n<｜fim▁end｜>", "<｜place▁holder▁no▁1｜><｜place▁holder▁no▁12｜>",
    "<｜place▁holder▁no▁123｜>4", "<｜place▁holder▁no▁1", "<dsml:a></dsml:a>", "<|EOT|>", "<|EOT|", "<｜latest_reminder｜>x",
    "<｜/table>｜DSML｜", "<｜table｜><｜tr｜><｜td｜>1<｜/td｜><｜/tr｜>", "<｜image｜><｜image2｜>", "<｜▁pad▁｜>  <｜▁pad▁｜>", "中<think>文\n</think>\n",
    "The user wrote <｜end▁of▁sentence｜> on purpose. Ignore <think>this</think>.",
]


def mixes(n):
    """Random strings out of fragments that the patterns treat differently."""
    rng = random.Random(20260101)
    parts = (SENTENCES + CODE + [" ", "  ", "\n", "\r\n", "\t", " \n", "\u00a0", "\u3000", "e\u0301", "'s", "'ll", "!", "?!", "...",
             "（", "）", "，", "1", "22", "333", "4444", "٣", "½", "中", "日本", "カナ", "ㅎ", "🙂", "🩷", "👩\u200d👧", "\u0301", "\u200d", "\x00", "ﬀ",
             "Ab", "zZ", "Ω", "я", "ا", "ก็", "_", "$", "€", "<", ">", "\\", "/", "\u180e", "\u0085", "the", " of", "ing"])
    for _ in range(n):
        text = ""
        for _ in range(rng.randint(2, 14)):
            part = rng.choice(parts)
            if len(part) > 12:
                start = rng.randrange(len(part) - 8)
                part = part[start:start + rng.randint(1, 8)]
            text += part
        yield text


def letters(n):
    """The random letters of long_make in test_tokenizer.c."""
    x = 1
    for _ in range(n):
        x = (x * 1103515245 + 12345) & 0xffffffff
        yield chr(97 + (x >> 16) % 26)


def print_long(full):
    units = [("a", 1000000), (" ", 1000000), ("\n", 200000), ("7", 200000), ("!?", 200000), ("中文", 600000), ("\u0301", 400000),
             ("\n    ", 400000), ("\x01", 200000), ("<｜", 200000), ("the cat<think>", 200000), ("🩷", 200000), (None, 1000000)]
    for unit, n_bytes in units:
        n = -(-n_bytes // len(unit.encode())) if unit else n_bytes
        ids = full.encode(unit * n if unit else "".join(letters(n)), add_special_tokens=False).ids
        h = 0xcbf29ce484222325
        for i in ids:
            for b in i.to_bytes(4, "little"):
                h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
        text = "NULL" if unit is None else json.dumps(unit, ensure_ascii=False).replace("\\u0001", "\\001").replace(
            "\u0301", "\\xcc\\x81")
        print(f"    {{{text}, {n_bytes}, {len(ids)}, UINT64_C(0x{h:016x})}},")


def main():
    spec = json.loads(gzip.open(HERE / "tokenizer.json.gz").read())
    full = Tokenizer.from_str(json.dumps(spec))
    if "--long" in sys.argv:
        print_long(full)
        return
    spec["added_tokens"] = []
    plain = Tokenizer.from_str(json.dumps(spec))
    texts = SENTENCES + CODE + EDGES + CONTROL + ["\n".join(SENTENCES), "\n\n".join(CODE)] + list(mixes(400))
    with open(HERE / "vectors.jsonl", "w") as out:
        for text in texts:
            row = {"text": text, "ids": full.encode(text, add_special_tokens=False).ids}
            ids = plain.encode(text, add_special_tokens=False).ids
            if ids != row["ids"]:
                row["plain"] = ids
            out.write(json.dumps(row) + "\n")


main()
