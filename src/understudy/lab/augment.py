"""Augmentation of a batch of log-mel clips: speed, vocal tract, shift, noise, gain, masks.

All of it acts on features, so it costs little: time and frequency are warped by interpolation
(N. Jaitly and G. Hinton, "Vocal tract length perturbation", 2013), noise is added as power, masks
are those of SpecAugment (D. Park et al., arXiv:1904.08779).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from understudy.lab.frontend import HTK_CORNER_HZ, HTK_SCALE, FrontEnd, hz_to_mel, mel_to_hz

COLOURS = 4  # cosines of a random frequency response
NEPERS_PER_DB = math.log(10.0) / 10.0  # of power


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much of each; every clip draws its own values. The defaults are for many voices."""

    speed: float = 0.15  # duration times 1 ± this
    tract: float = 0.15  # frequencies times 1 ± this
    shift_frames: int = 10
    gain_db: float = 10.0
    colour_db: float = 0.0  # deviation of a smooth curve over frequency, such as a microphone's
    noise_share: float = 0.5  # of clips
    snr_db: tuple[float, float] = (5.0, 40.0)
    band_masks: int = 1
    band_mask: int = 8  # bands, at most
    frame_masks: int = 1
    frame_mask: int = 12  # frames, at most

    @classmethod
    def strong(cls) -> Augmentation:
        """For few voices: a net that has heard four of them learns who speaks, not what is said,
        and which microphone each had."""
        return cls(colour_db=6.0, noise_share=0.7, snr_db=(0.0, 30.0), band_masks=2, frame_masks=2)

    @classmethod
    def none(cls) -> Augmentation:
        return cls(0.0, 0.0, 0, 0.0, 0.0, 0.0, (0.0, 0.0), 0, 0, 0, 0)


class Augmenter:
    """Draws from torch's global generator, which the training loop seeds for every epoch."""

    def __init__(self, how: Augmentation, frontend: FrontEnd, noise: Tensor | None = None) -> None:
        """`noise`: features [bands, frames] to cut from, or None: none is added."""
        self._how = how
        self._frontend = frontend
        self._noise = noise
        ends = hz_to_mel([frontend.low_hz, frontend.high_hz])
        self._ends = (float(ends[0]), float(ends[1]))
        mels = torch.linspace(*self._ends, frontend.bands + 2)[1:-1]
        self._centres_hz = torch.tensor(mel_to_hz(mels.numpy()), dtype=torch.float32)

    def __call__(self, batch: Tensor) -> Tensor:
        """[batch, bands, frames], normalised -> the same shape."""
        batch = self._warp(batch)
        if self._noise is not None and self._how.noise_share > 0:
            batch = self._add_noise(batch)
        gain_db = _between(-self._how.gain_db, self._how.gain_db, len(batch))[:, None]
        gain_db = gain_db + self._colour_db(len(batch))
        batch = batch + (gain_db * NEPERS_PER_DB / self._std)[:, :, None]
        batch = batch.clamp(min=(math.log(self._frontend.floor) - self._mean) / self._std)
        batch = _mask(batch, 1, self._how.band_masks, self._how.band_mask)
        return _mask(batch, 2, self._how.frame_masks, self._how.frame_mask)

    @property
    def _mean(self) -> float:
        return self._frontend.mean

    @property
    def _std(self) -> float:
        return self._frontend.std

    def _colour_db(self, count: int) -> Tensor:
        """[count, bands], or nothing to add: the first cosines over the mel axis, at random."""
        if not self._how.colour_db:
            return torch.zeros(count, 1)
        where = torch.linspace(0, math.pi, self._frontend.bands)
        shapes = torch.stack([torch.cos(n * where) for n in range(1, COLOURS + 1)])
        return torch.randn(count, COLOURS) * self._how.colour_db / math.sqrt(COLOURS / 2) @ shapes

    def _warp(self, batch: Tensor) -> Tensor:
        """Speed, shift and vocal tract as one interpolation over both axes."""
        how = self._how
        if not (how.speed or how.tract or how.shift_frames):
            return batch
        count, bands, frames = batch.shape
        speed = _between(1 - how.speed, 1 + how.speed, count)
        shift = _between(-how.shift_frames, how.shift_frames, count)
        middle = (frames - 1) / 2
        at = (torch.arange(frames)[None] - middle - shift[:, None]) * speed[:, None] + middle
        tract = _between(1 - how.tract, 1 + how.tract, count)
        hz = self._centres_hz[None] * tract[:, None]
        mel = HTK_SCALE * torch.log10(1.0 + hz / HTK_CORNER_HZ)
        band = (mel - self._ends[0]) / (self._ends[1] - self._ends[0]) * (bands + 1) - 1
        grid = torch.stack(
            [
                (at / max(1, frames - 1) * 2 - 1)[:, None, :].expand(count, bands, frames),
                (band / max(1, bands - 1) * 2 - 1)[:, :, None].expand(count, bands, frames),
            ],
            dim=-1,
        )
        warped = functional.grid_sample(
            batch[:, None], grid, padding_mode="border", align_corners=True
        )
        return warped[:, 0]

    def _add_noise(self, batch: Tensor) -> Tensor:
        assert self._noise is not None
        count, _, frames = batch.shape
        starts = torch.randint(0, self._noise.shape[1] - frames + 1, (count,))
        noise = torch.stack([self._noise[:, s : s + frames] for s in starts.tolist()])
        clip_power = (batch * self._std + self._mean).exp()
        noise_power = (noise * self._std + self._mean).exp()
        loud = clip_power.sum(1).topk(max(1, frames // 4), dim=1).values.mean(1)
        level = noise_power.sum(1).mean(1)
        snr = _between(*self._how.snr_db, count) * NEPERS_PER_DB
        gain = loud / level.clamp(min=1e-12) * torch.exp(-snr)
        gain = gain * (torch.rand(count) < self._how.noise_share)
        mixed = clip_power + gain[:, None, None] * noise_power
        return (mixed.log() - self._mean) / self._std


def mix(batch: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Mixup (H. Zhang et al., arXiv:1710.09412): pairs of clips and of their targets.

    `targets` [batch, classes] are shares that sum to 1; `strength` is the Beta's parameter.
    """
    if strength <= 0:
        return batch, targets
    share = torch.distributions.Beta(strength, strength).sample((len(batch),))
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(batch))
    wide, high = share[:, None, None], share[:, None]
    return wide * batch + (1 - wide) * batch[other], high * targets + (1 - high) * targets[other]


def _between(low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count)


def _mask(batch: Tensor, axis: int, masks: int, widest: int) -> Tensor:
    """Sets up to `widest` bands (axis 1) or frames (axis 2) to the mean, `masks` times a clip."""
    size = batch.shape[axis]
    index = torch.arange(size)[None]
    for _ in range(masks):
        width = (torch.rand(len(batch)) * (min(widest, size) + 1)).floor()
        start = (torch.rand(len(batch)) * (size - width + 1)).floor()
        hidden = (index >= start[:, None]) & (index < (start + width)[:, None])
        batch = batch.masked_fill(hidden.unsqueeze(2 if axis == 1 else 1), 0.0)
    return batch
