"""In which language a model is to listen, as the engine of SDK 2.x takes it.

The engine listens for English, without a word, when it is told no language or one that it doesn't
know, `de-DE`, `DE` and `auto` included (onnx_audio_generator.cc, and probed on 2.2.1). Only
Nemotron can detect it. So what it would not understand is put right here, or refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.arguments import check_text
from foundry_api.errors import InvalidRequest

if TYPE_CHECKING:
    from foundry_api.service.model_task import Speech

__all__ = ["AUTO", "LANGUAGES", "UNSPACED", "checked_language", "language_for"]

AUTO = "auto"
_WHISPER_CODES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he "
    "hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne "
    "nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk "
    "ur uz vi yi yo zh"
)
WHISPER = frozenset(_WHISPER_CODES.split())
_NEMOTRON_CODES = (
    "ar ar-ar bg bg-bg cs cs-cz da da-dk de de-de el el-gr en en-gb en-us es es-es es-us et et-ee "
    "fi fi-fi fr fr-ca fr-fr he he-il hi hi-in hr hr-hr hu hu-hu it it-it ja ja-jp ko ko-kr lt "
    "lt-lt lv lv-lv mt mt-mt nb nb-no nl nl-nl nn nn-no pl pl-pl pt pt-br pt-pt ro ro-ro ru ru-ru "
    "sk sk-sk sl sl-si sv sv-se th th-th tr tr-tr uk uk-ua vi vi-vn zh-cn"
)
NEMOTRON = frozenset(_NEMOTRON_CODES.split())
LANGUAGES = WHISPER | {code.partition("-")[0] for code in NEMOTRON}
"""What one of the engine's models knows."""

UNSPACED = frozenset({"bo", "ja", "km", "lo", "my", "th", "zh"})
"""They put no space between sentences."""

_WHISPER_NAMES = {"nb": "no"}
_NEMOTRON_NAMES = {"no": "nb", "zh": "zh-cn"}


def checked_language(language: object) -> str:
    """A language that a model may know, in small letters.

    Raises:
        InvalidRequest: It is none.
    """
    code = check_text("language", language).lower().replace("_", "-")
    if code.partition("-")[0] not in LANGUAGES and code != AUTO:
        raise InvalidRequest(
            f"language is {language!r}, which no engine knows; it would listen for English instead",
            field="language",
            hint="Give its code of ISO 639, such as de.",
        )
    return code


def language_for(speech: Speech, language: str | None, model: str) -> str:
    """What the engine is told.

    Args:
        speech: What kind of model listens.
        language: As `checked_language` returns it; None to have it detected.
        model: The model's id, for errors.

    Raises:
        InvalidRequest: The model does not know it, or can't detect it.
    """
    if speech == "nemotron":
        return _of_nemotron(language or AUTO, model)
    if language is None or language == AUTO:
        if speech == "english":
            return "en"
        raise InvalidRequest(
            f"no language is given, and the engine cannot have {model} detect it: it would listen "
            "for English, whatever is spoken",
            field="language",
            hint="Give the code of the language that is spoken, such as en or de.",
        )
    base = language.partition("-")[0]
    code = _WHISPER_NAMES.get(base, base)
    if code not in WHISPER or (speech == "english" and code != "en"):
        raise _unknown(language, model)
    return code


def _of_nemotron(code: str, model: str) -> str:
    base = code.partition("-")[0]
    for each in (code, _NEMOTRON_NAMES.get(code), base, _NEMOTRON_NAMES.get(base)):
        if each is not None and (each in NEMOTRON or each == AUTO):
            return each
    raise _unknown(code, model)


def _unknown(code: str, model: str) -> InvalidRequest:
    return InvalidRequest(
        f"language is {code!r}, which {model} does not know; the engine would listen for another",
        field="language",
    )
