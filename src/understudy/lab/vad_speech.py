"""Speech that nobody has to record: espeak-ng in many tongues, voices, rates and pitches."""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from understudy.core.errors import ConfigError
from understudy.lab import audio

VARIANTS: Final = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "croak")
SENTENCES: Final = {
    "en-us": (
        "Could you send me the second one, please?",
        "No, not that one. The blue one on the left.",
        "We left the house at half past seven and walked along the river.",
        "Yes. Exactly. That is what I meant.",
        "She keeps five quiet goats behind the old chapel.",
    ),
    "en-gb": (
        "I shouldn't think so, but let me have a look.",
        "Thirty-six, ninety-four, eleven, and a hundred and two.",
        "Turn the volume down and put the kettle on.",
    ),
    "de": (
        "Guten Morgen, ist hier noch ein Platz frei?",
        "Der Zug nach Köln fährt heute von einem anderen Gleis ab.",
        "Achtundzwanzig Euro und vierzig Cent, bitte.",
    ),
    "fr": (
        "Bonjour, je voudrais deux billets pour ce soir.",
        "Il fait froid, mais le soleil brille sur la montagne.",
        "Quatre-vingt-dix-sept, et puis c'est tout.",
    ),
    "es": (
        "¿Puedes repetirlo un poco más despacio?",
        "La niña corre por la playa con su perro.",
        "Mañana por la tarde llegan los primos de Zaragoza.",
    ),
    "it": ("Mi passi il sale, per favore?", "Ieri sera abbiamo cenato sul terrazzo."),
    "pt-br": ("Onde fica a estação de trem?", "A chuva parou e a rua ficou cheia de gente."),
    "pl": ("Proszę zamknąć okno, bo jest zimno.", "W szafie wisi szary płaszcz."),
    "ru": ("Здравствуйте, сколько это стоит?", "Завтра мы поедем на дачу к бабушке."),
    "tr": ("Bugün hava çok güzel, yürüyelim mi?", "Kapının önünde küçük bir kedi var."),
    "ar": ("مرحبا، كيف حالك اليوم؟", "أين أقرب محطة من هنا؟"),
    "hi": ("नमस्ते, आप कैसे हैं?", "कल सुबह हम बाज़ार जाएँगे।"),
    "cmn": ("你好，今天天气很好。", "我们明天早上八点见面。"),
    "sw": ("Habari za asubuhi, rafiki yangu?", "Watoto wanacheza mpira nje ya nyumba."),
    "fi": ("Hyvää huomenta, onko kahvia vielä?", "Juna lähtee asemalta kymmenen minuutin päästä."),
    "hu": ("Jó napot kívánok, merre van a piac?", "A kertben már virágzik az almafa."),
}


def voices() -> list[str]:
    """Every tongue with every variant, such as "de+f2": each is a speaker of its own."""
    return [f"{tongue}+{variant}" for tongue in SENTENCES for variant in VARIANTS]


def say(voice: str, chance: np.random.Generator, rate_hz: int) -> NDArray[np.float32]:
    """One sentence, at a rate and pitch that are drawn. Raises ConfigError without espeak-ng."""
    if shutil.which("espeak-ng") is None:
        raise ConfigError("speech is synthesised by espeak-ng: apt-get install espeak-ng")
    sentences = SENTENCES[voice.partition("+")[0]]
    text = sentences[int(chance.integers(len(sentences)))]
    speed, pitch = int(chance.integers(110, 230)), int(chance.integers(15, 85))
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or len(done.stdout) < 1000:
        raise ConfigError(f"espeak-ng does not speak {voice}: {done.stderr.decode()[:200]}")
    samples, from_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return audio.resample(np.asarray(samples, np.float32), int(from_hz), rate_hz)
