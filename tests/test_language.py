"""Languages: told by letters and common words, or not at all."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.body import scan
from proxy.language import LANGUAGES, asked_in, language_of

QUESTIONS = {
    "ar": "كيف يمكنني إعادة تعيين كلمة المرور؟",
    "cs": "Jak si mohu obnovit heslo? Nevím, co mám dělat, a nejde to.",
    "da": "Hvordan kan jeg nulstille min adgangskode? Den virker ikke af sig selv.",
    "de": "Wie kann ich mein Passwort zurücksetzen?",
    "el": "Πώς μπορώ να επαναφέρω τον κωδικό μου;",
    "en": "How do I reset my password?",
    "es": "¿Cómo puedo restablecer mi contraseña?",
    "fa": "چگونه رمز عبورم را بازنشانی کنم؟",
    "fi": "Miten voin palauttaa salasanani? Se ei toimi.",
    "fr": "Comment puis-je réinitialiser mon mot de passe pour le site ?",
    "he": "איך אני מאפס סיסמה?",
    "hi": "मैं अपना पासवर्ड कैसे रीसेट करूं?",
    "hu": "Hogyan állíthatom vissza a jelszavamat? Nem működik.",
    "id": "Bagaimana saya bisa mengatur ulang kata sandi saya?",
    "it": "Come posso reimpostare la mia password? Non la trovo più.",
    "ja": "パスワードをリセットするにはどうすればいいですか？",
    "ko": "비밀번호를 어떻게 재설정하나요?",
    "nl": "Hoe kan ik mijn wachtwoord opnieuw instellen? Het werkt niet.",
    "no": "Hvordan kan jeg tilbakestille passordet mitt? Hva skal jeg gjøre?",
    "pl": "Jak mogę zresetować hasło? Nie działa i nie wiem, co zrobić.",
    "pt": "Como posso redefinir a minha senha? Não consigo entrar.",
    "ro": "Cum îmi pot reseta parola? Nu mai știu ce să fac cu ea.",
    "ru": "Как сбросить пароль?",
    "sv": "Hur kan jag återställa mitt lösenord? Det fungerar inte.",
    "th": "ฉันจะรีเซ็ตรหัสผ่านได้อย่างไร",
    "tr": "Şifremi nasıl sıfırlayabilirim? Bu çok önemli.",
    "uk": "Як скинути пароль? Він не підходить і я не знаю",
    "vi": "Làm thế nào để tôi đặt lại mật khẩu của tôi?",
    "zh": "我怎么重置密码？",
}


def test_each_language() -> None:
    """Every language that a condition may name is told by a short question in it."""
    assert set(QUESTIONS) == LANGUAGES
    assert {language: language_of(text) for language, text in QUESTIONS.items()} == {each: each for each in QUESTIONS}


@pytest.mark.parametrize("text", ["", "hi", "x = [1, 2, 3]; print(sum(x))", "17.5 * 42", "gpt-4o-mini"])
def test_none(text: str) -> None:
    """What is too short, or isn't prose, has no language."""
    assert language_of(text) is None


@given(st.text())
def test_any_text(text: str) -> None:
    """Whatever is asked, the answer is a language or none."""
    assert language_of(text) in {*LANGUAGES, None}


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("chat.completions", {"messages": [{"role": "system", "content": QUESTIONS["en"]}, "USER", "ANSWER"]}),
        ("messages", {"system": QUESTIONS["en"], "messages": ["PARTS"]}),
        ("responses", {"input": QUESTIONS["de"], "instructions": QUESTIONS["en"]}),
        ("responses", {"input": ["PARTS"]}),
        ("completions", {"prompt": QUESTIONS["de"]}),
    ],
)
def test_what_the_user_said_last(endpoint: str, fields: dict[str, object]) -> None:
    """Neither instructions nor answers count."""
    turns = {
        "USER": {"role": "user", "content": QUESTIONS["de"]},
        "ANSWER": {"role": "assistant", "content": QUESTIONS["fr"]},
        "PARTS": {"role": "user", "content": [{"type": "text", "text": QUESTIONS["de"]}]},
    }
    written = {
        name: [turns.get(one, one) if isinstance(one, str) else one for one in value]
        if isinstance(value, list)
        else value
        for name, value in fields.items()
    }
    assert asked_in(endpoint, scan(orjson.dumps(written))) == "de"


def test_a_large_request_is_sampled() -> None:
    """What is too large to be parsed is told by samples of its text."""
    text = " ".join([QUESTIONS["de"]] * 10_000)
    body = scan(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}))
    assert not body.parsed
    assert asked_in("chat.completions", body) == "de"
