"""Which language a text is in, as far as its letters and commonest words tell. Pure, and some microseconds.

Rules:
1. The answer is an ISO 639-1 code of `LANGUAGES`, or None: a text too short or too mixed has none, which is better than
   a wrong one. Code, tables and numbers have no language.
2. A script that only one language is written in (kana, Hangul, Thai, Greek) decides. Where several share one, letters
   that only some of them have, and the words that make up half of any text, do.
3. Only the beginning of a text is looked at.
"""

from __future__ import annotations

import re
from typing import Any, Final

from proxy.body import Body

_LOOKED_AT: Final = 1000  # characters
_FEWEST: Final = 2  # words that only one language has so often
_AHEAD: Final = 1.25  # times the score of the next one
_SHARE: Final = 0.08  # of all words must be known; of prose, a third or more are
_WORD: Final = re.compile(r"[^\W\d_]+")

NAMES: Final = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
LANGUAGES: Final = frozenset(NAMES)

# Blocks of Unicode, and who is written in them.
_SCRIPTS: Final = (
    (0x0370, 0x0400, "el"),
    (0x0400, 0x0530, "ru"),
    (0x0590, 0x0600, "he"),
    (0x0600, 0x0780, "ar"),
    (0x0900, 0x0980, "hi"),
    (0x0E00, 0x0E80, "th"),
    (0x1100, 0x1200, "ko"),
    (0x3040, 0x3100, "ja"),
    (0x4E00, 0xA000, "zh"),
    (0xAC00, 0xD7B0, "ko"),
)
_UKRAINIAN, _RUSSIAN = frozenset("іїєґ"), frozenset("ыэъё")
_PERSIAN: Final = frozenset("پچژگکی")

_WORDS: Final = {
    "cs": "a je se na v že to s z do o pro jsem jak co jsou ale by ve za po jako nebo tak když od který mi si jsme být",
    "da": "og er det at en den til på i for med ikke de et af har som jeg der vi kan hvad hvordan fra om eller men også"
    " skal mig du blev hvor",
    "de": "der die das und ist nicht ich ein eine zu den mit auf für von wie was sich im dem des es auch an als oder"
    " bei nach wir kann sind mir bitte wird einen einer wenn aus",
    "en": "the of and to in is that it for you was with on as are be this have from or by what how not can an at which"
    " your do me my we if please",
    "es": "el la de que y en los un por con no una para es las se del lo como qué su al más cómo pero o son está mi me"
    " puede sobre este",
    "fi": "ja on ei se että oli hän mutta ovat kun niin tai minä sen mitä miten voi ole mikä jos myös kuin ovatko tämä"
    " mitkä miksi kanssa olen",
    "fr": "le la les de des et est un une que qui dans pour pas ce en du au sur avec il je vous par plus sont comment"
    " quel quelle ou mais nous aux ses cette être",
    "hu": "a az és hogy nem is egy van de meg ez ki csak mint már mi volt vagy mit kell hogyan ha azt milyen minden"
    " lehet nekem",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada saya adalah ke karena bisa ada apa bagaimana"
    " atau juga kami anda mereka oleh",
    "it": "il di che è la un per una in non sono del con le si da come gli dei nel più ma della cosa anche questo alla"
    " i mi può lo ho essere",
    "nl": "de het een van en is dat in op te zijn niet voor met die aan er om ook als maar bij hoe wat of naar kan ik"
    " deze uit wordt heeft",
    "no": "og er det at en den til på i for med ikke de et av har som jeg vi kan hva hvordan fra om eller men også skal"
    " meg du ble hvor noe",
    "pl": "i w nie na się z do to jest że co jak o za po od tak ale czy dla jako są może przez jego który mnie lub"
    " przy proszę",
    "pt": "o de que e do da em um para é com não uma os no se na por mais as dos como mas ao ou são você qual eu está"
    " isso meu pelo",
    "ro": "și de în a la cu pe nu o că este un din care mai pentru ce sau sunt se cum dar am fi să au ca prin îmi",
    "sv": "och är det att en som på i för med inte de ett av har jag den till vi kan vad hur från om eller men också"
    " ska mig du var",
    "tr": "ve bir bu için ile de da ne ben çok daha gibi mi nasıl ama var olarak o mı değil olan kadar sonra nedir"
    " lütfen en her ya",
    "vi": "là của và có không được cho một các trong với tôi những này người đã khi như từ gì thế nào ở đến về bạn",
}
_BY_WORD: Final[dict[str, tuple[str, ...]]] = {}
for _language, _list in _WORDS.items():
    for _one in set(_list.split()):
        _BY_WORD[_one] = (*_BY_WORD.get(_one, ()), _language)
# Letters that say more than a word: of few languages each.
_LETTERS: Final = {
    "ß": ("de",),
    "ñ": ("es",),
    "¿": ("es",),
    "ã": ("pt",),
    "õ": ("pt",),
    "ø": ("da", "no"),
    "å": ("sv", "da", "no"),
    "ł": ("pl",),
    "ą": ("pl",),
    "ę": ("pl",),
    "ř": ("cs",),
    "ů": ("cs",),
    "ě": ("cs",),
    "ő": ("hu",),
    "ű": ("hu",),
    "ğ": ("tr",),
    "ı": ("tr",),
    "ș": ("ro",),
    "ț": ("ro",),
    "ă": ("ro", "vi"),
    "đ": ("vi",),
    "ư": ("vi",),
    "ơ": ("vi",),
}


def language_of(text: str) -> str | None:
    """The language of a text, if it can be told."""
    text = text[:_LOOKED_AT]
    if not text.isascii() and (found := _by_script(text)) is not None:
        return found
    words = _WORD.findall(text.lower())
    scores: dict[str, float] = {}
    known = 0
    for word in words:
        languages = _BY_WORD.get(word, ())
        known += bool(languages)
        for language in languages:
            scores[language] = scores.get(language, 0.0) + 1 / len(languages)
    for letter in () if text.isascii() else _LETTERS.keys() & set(text.lower()):
        for language in _LETTERS[letter]:
            scores[language] = scores.get(language, 0.0) + 1 / len(_LETTERS[letter])
    if known < _FEWEST or known < _SHARE * len(words):
        return None
    ranked = sorted(scores.items(), key=lambda pair: -pair[1])
    if len(ranked) > 1 and ranked[0][1] < _AHEAD * ranked[1][1]:
        return None
    return ranked[0][0]


def asked_in(endpoint: str, body: Body) -> str | None:
    """The language of what was asked last; of a body too large to be parsed, that of samples of it."""
    if not body.parsed:
        from proxy.tokens.texts import texts

        if samples := texts(endpoint, body).samples:
            return language_of(max(samples, key=lambda pair: len(pair[0]))[0].decode("utf-8", "ignore"))
    return language_of(last_said(endpoint, body))


def last_said(endpoint: str, body: Body) -> str:
    """The text of the last turn of the user; empty where there is none that can be read."""
    name = _TURNS.get(endpoint)
    turns = body.get(name) if name is not None else None
    if isinstance(turns, list) and turns and all(isinstance(turn, str) for turn in turns):
        return str(turns[-1])
    for turn in reversed(turns) if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("role") == "user" and (text := text_of(turn.get("content"))):
            return text
    return turns if isinstance(turns, str) else ""


def text_of(content: Any) -> str:
    """The text of a turn's content."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join([part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)])


_TURNS: Final = {
    "chat.completions": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "images.generations": "prompt",
    "audio.speech": "input",
    "messages": "messages",
    "moderations": "input",
    "responses": "input",
}


def _by_script(text: str) -> str | None:
    """The language whose script most letters are of; None for Latin."""
    counts: dict[str, int] = {}
    latin = 0
    for letter in text:
        code = ord(letter)
        if code < 0x0370 or 0x1E00 <= code < 0x1F00:
            latin += letter.isalpha()
            continue
        for first, end, language in _SCRIPTS:
            if first <= code < end:
                counts[language] = counts.get(language, 0) + 1
                break
    if not counts:
        return None
    found = max(counts, key=counts.__getitem__)
    if 4 * counts[found] < latin:  # a word in another script, in a text that isn't
        return None
    if found == "zh" and counts.get("ja", 0) * 10 >= counts["zh"]:
        return "ja"
    letters = set(text.lower())
    if found == "ru":
        return "uk" if letters & _UKRAINIAN and not letters & _RUSSIAN else "ru"
    if found == "ar":
        return "fa" if letters & _PERSIAN else "ar"
    return found
