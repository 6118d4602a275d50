"""Text files of unknown encoding: captions and metadata that other programs wrote.

A byte order mark decides, then UTF-8; what is neither is read in that one of a few encodings in which it looks most
like writing. The choice is a guess from what characters stand side by side, so it is always reported.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable
from pathlib import Path
from unicodedata import category

from bowerbird.core.errors import BowerbirdError
from bowerbird.data.report import SourceReport

SAMPLE = 20_000
"""So many bytes are enough to tell encodings apart."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNS = frozenset("‘’“”–—…€™©®°«»·¿¡£§½¼¾²³×º\xa0")
"""What Western texts hold beside letters."""
_WESTERN = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßÀÁÂÄÅÆÇÈÉÊËÍÎÏÑÓÔÖØÙÚÜœŒ")
_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方"
    "多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日者意无力它与长把机十民第公此已工使情"
    "明性知全三又关点正业外将两高间由问很最重物手应向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信化老给世位次"
    "度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活更别打女变四神总何电数安少才结反受目太量再感建做"
    "接必场件计管期市直德资命山金指克许区至形社便空决治展马科司五基眼书非听白却界达光放强即像难且王象完设式色路记南品住类求"
    "红绿蓝黄黑灰紫橙粉狐狸猫狗鸟鱼花草树木车船房屋街桥河湖雪雨云星夜照片图画穿衣站坐跑男孩猪牛羊兔虎狮熊只张座条朵棵"
    "這個們來國說時會對過發後裡學還樣開從無與長機動點業兩間問頭體見產給話門東聲員論處義幾認條氣題變總電數結產貓鳥魚樹車紅綠藍黃"
)
_KOREAN = frozenset(
    "의이다는을에가한고지하은로도를서사기인자나대리정어아시해스과일보수그들부전상있것라주연게유여생구제만원적세동장성비치빨간개강양"
    "우면소진산마물무바오조관공미신교위어학문화계속발방파랑노란검흰색고양강아새꽃나무집차사람하늘바다"
)


_ALONE = re.compile("(?<=[A-Za-z])[^\x00-\x7f](?![^\x00-\x7f])|(?<![^\x00-\x7f])[^\x00-\x7f](?=[A-Za-z])")
"""A character beside Latin letters and none of its kind."""


_ESCAPED = re.compile("[\udc80-\udcff]")
"""Bytes in a file's name that are no character, as Python keeps them."""


def read_text(data: bytes, name: str, report: SourceReport) -> str:
    """The text in `data` without a byte order mark. An encoding that had to be guessed is noted under `name`."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            if encoding != "utf-8-sig":
                report.note("encodings", f"{name} ({encoding.upper()})")
            return data.decode(encoding, "replace")
    found = _utf16_without_mark(data)
    if found is None:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            if _is_mostly_utf8(data):  # lines of several programs in one file
                report.note("encodings", f"{name} (UTF-8, and some lines are not)")
                return "\n".join(map(_decode_line, data.split(b"\n")))
            found = guess(data)
    report.note("encodings", f"{name} ({found})")
    return data.decode(found, "replace")


def read_text_file(path: Path, holds: str, report: SourceReport) -> str:
    """`read_text` of a file. Raises: BowerbirdError where it cannot be read, saying what it should hold."""
    try:
        return read_text(path.read_bytes(), path.name, report)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BowerbirdError(f"{path}: cannot be read ({reason}); give a text file with {holds}") from error


def spelled(name: str) -> str:
    """A file's name as text: one whose bytes are not in the system's encoding (of an old disk, or an archive made
    elsewhere) is read as texts are. Only for what is shown and kept: it opens no file."""
    if _ESCAPED.search(name) is None:
        return name
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        return name
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(guess(raw), "replace")


def lines_of(text: str) -> list[str]:
    """The lines of a text, ended by a line feed alone: U+2028, U+0085 and form feeds belong to what is written."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def guess(data: bytes) -> str:
    """The encoding, of those below, in which `data` looks most like writing; cp1252 where nothing decides."""
    sample = data[:SAMPLE]
    best, most = "cp1252", 0.0
    for encoding, weigh in _CANDIDATES:
        try:
            codec = codecs.getincrementaldecoder(encoding)()
            text = codec.decode(sample, final=len(sample) == len(data))
        except UnicodeDecodeError:
            continue
        if len(text) < len(sample):  # an accent and the letter after it make a character of two bytes
            text = _ALONE.sub("\x84", text)
        score = _score(text, weigh)
        if score > most:
            best, most = encoding, score
    return best


def _decode_line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode(guess(line), "replace")


def _is_mostly_utf8(data: bytes) -> bool:
    """Whether more characters of several bytes are whole than broken."""
    text = data.decode("utf-8", "replace")
    broken = text.count("�")
    return sum(1 for char in text if ord(char) > 127) - broken > broken


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 that nobody marked: every other byte of plain letters is zero."""
    sample = data[:SAMPLE]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if len(data) < 4 or len(data) % 2 or max(even, odd) < len(sample) * 0.3 or min(even, odd) > len(sample) * 0.02:
        return None
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return encoding


def _score(text: str, weigh: Callable[[str, str, str], float]) -> float:
    """How much what is not ASCII in `text` looks like writing, from 0 to 1."""
    total, count = 0.0, 0
    for i, char in enumerate(text):
        if ord(char) < 128:
            if char < " " and char not in "\t\r\n\f\v":
                return 0.0
            continue
        before, after = text[i - 1] if i else " ", text[i + 1] if i + 1 < len(text) else " "
        total, count = total + weigh(char, before, after), count + 1
    return total / count if count else 0.0


def _latin(char: str, before: str, after: str) -> float:
    """A letter with an accent stands beside plain letters, and seldom beside its like."""
    if char in _SIGNS:
        return 0.6
    if not char.isalpha() or not _is_latin(char):
        return 0.05
    if (before.isalpha() and not _is_latin(before)) or (after.isalpha() and not _is_latin(after)):
        return 0.05
    if char.isupper() and before.islower():
        return 0.1
    return (0.8, 0.6, 0.15)[sum(ord(c) > 127 for c in (before, after))] * (1.0 if char in _WESTERN else 0.45)


def _central_european(char: str, before: str, after: str) -> float:
    return 0.9 * _latin(char, before, after) * (1.0 if char in _WESTERN or char in _SIGNS else 2.0)


def _is_latin(char: str) -> bool:
    return ord(char) < 0x250


def _cyrillic(char: str, before: str, after: str) -> float:
    if char in _SIGNS:
        return 0.5
    if not ("А" <= char <= "я" or char in "ёЁіїєґІЇЄҐ"):
        return 0.05
    if any(c.isascii() and c.isalpha() for c in (before, after)) or (char.isupper() and before.islower()):
        return 0.05
    return 0.68 if "А" <= char <= "я" or char in "ёЁ" else 0.4


def _cjk_mark(char: str) -> float | None:
    if "　" <= char <= "〿" or "！" <= char <= "～" or char in "·“”‘’…—":
        return 0.6
    if "｡" <= char <= "ﾟ":
        return 0.1
    return None


def _japanese(char: str, before: str, after: str) -> float:
    if "ぁ" <= char <= "ヿ":
        return 1.0
    if (mark := _cjk_mark(char)) is not None:
        return mark
    try:
        code = char.encode("cp932")
    except UnicodeEncodeError:
        return 0.05
    return 0.62 if b"\x88\x9f" <= code <= b"\x98\x72" else 0.15


def _chinese(char: str, before: str, after: str) -> float:
    if char in _CHINESE:
        return 1.0
    if (mark := _cjk_mark(char)) is not None:
        return mark
    if "ぁ" <= char <= "ヿ":
        return 0.4
    code = char.encode("gb18030")
    if len(code) != 2 or code[1] < 0xA1 or code[0] < 0xB0:
        return 0.05
    return 0.62 if code[0] <= 0xD7 else 0.35


def _taiwanese(char: str, before: str, after: str) -> float:
    if char in _CHINESE:
        return 1.0
    if (mark := _cjk_mark(char)) is not None:
        return mark
    try:
        code = char.encode("big5")
    except UnicodeEncodeError:
        return 0.05
    return 0.6 if b"\xa4\x40" <= code <= b"\xc6\x7e" else 0.15


def _korean(char: str, before: str, after: str) -> float:
    if char in _KOREAN:
        return 1.0
    if "가" <= char <= "힣":
        return 0.5
    return 0.1 if category(char) == "Lo" else (_cjk_mark(char) or 0.05)


_CANDIDATES: tuple[tuple[str, Callable[[str, str, str], float]], ...] = (
    ("cp1252", _latin),
    ("cp932", _japanese),
    ("gb18030", _chinese),
    ("big5", _taiwanese),
    ("euc_kr", _korean),
    ("euc_jp", _japanese),
    ("cp1251", _cyrillic),
    ("cp1250", _central_european),
)
