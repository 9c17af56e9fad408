"""How an output is encoded: the codec, its settings, and which containers take it.

Settings are fixed to the last, the number of threads among them: a segment's bytes must not depend on the machine that
makes it, since segments of several machines become one stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.codec import Codec, CodecContext

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.spelling import meant
from tecogan_dist.video.colours import BT709, MATRICES, RGB_MATRIX
from tecogan_dist.video.encoders import CONTAINERS, ENCODERS, NAMES, Encoder, check_values, hdr_parameters
from tecogan_dist.video.encoders import opens as encoder_opens
from tecogan_dist.video.properties import Properties


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What somebody asks of an output; None leaves it to :func:`choose`.

    ``codec`` is one of :data:`tecogan_dist.video.encoders.NAMES`, ``quality`` is in the codec's own units (smaller is
    better), ``options`` are FFmpeg's of the encoder. ``eight_bits`` makes 8-bit video of a source with more.
    """

    codec: str | None = None
    quality: int | None = None
    pix_fmt: str | None = None
    preset: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    eight_bits: bool = False

    def plain(self) -> dict[str, Any]:
        """For JSON, and to be compared: an equal one asks for the same."""
        return asdict(self) | {"options": dict(sorted(self.options.items()))}


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """All that a segment's encoder is told. Segments of equal encodings and sizes can be joined.

    ``encoder`` is FFmpeg's name, ``options`` all of its options, ``suffix`` that of the segments' files, ``deep``
    whether its frames should be uint16. The rest are the tags of the pixels, as in
    :class:`tecogan_dist.video.properties.Properties`; ``matrix`` 0 keeps RGB.
    """

    encoder: str
    pix_fmt: str
    options: tuple[tuple[str, str], ...]
    suffix: str
    deep: bool = False
    matrix: int = BT709
    primaries: int = BT709
    transfer: int = BT709
    full_range: bool = False
    chroma: str = "left"
    sample_aspect: tuple[int, int] = (1, 1)
    rate: tuple[int, int] = (24, 1)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        plain = asdict(self)
        return plain | {"options": dict(self.options)}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Encoding:
        """What :meth:`to_plain` gave. Raises :class:`UserError` for anything else."""
        try:
            given = dict(plain)
            pairs = tuple((str(key), str(value)) for key, value in given.pop("options").items())
            aspect, rate = (tuple(int(number) for number in given.pop(key)) for key in ("sample_aspect", "rate"))
            return Encoding(options=pairs, sample_aspect=(aspect[0], aspect[1]), rate=(rate[0], rate[1]), **given)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError("the record of an encoding is damaged: start again with --restart.") from error


def choose(
    suffix: str, properties: Properties, wishes: Wishes | None = None, *, hardware: bool | None = None
) -> tuple[Encoding, list[str]]:
    """The encoding of an output with this suffix (".mp4") for a source, and sentences on what is not as it was asked.

    ``hardware``: whether a GPU's encoder works where frames are encoded, if that is not this machine.
    A source of more than 8 bits stays at 10 where the codec can; a tagged source keeps its tags. Raises
    :class:`UserError` for a codec that the container does not take, and for options that the encoder does not have.
    """
    wishes = wishes or Wishes()
    suffix = suffix.lower()
    encoder, notes = _encoder(suffix, wishes, properties, hardware)
    deep = properties.bit_depth > 8 and not wishes.eight_bits
    if suffix == ".gif":
        deep = False
    pix_fmt = _pixel_format(encoder, wishes.pix_fmt, deep)
    out_depth = _depth(pix_fmt)
    if deep and out_depth == 8:
        notes.append(f"{encoder.name} makes 8 bits a channel here, and the source has {properties.bit_depth}.")
    notes += _hdr_notes(encoder, properties, out_depth, suffix)
    if deep and out_depth > 8 and encoder.ffmpeg == "libx264":
        notes.append(
            "the output has 10 bits, as the input; players without hevc may not play such h264, and 8 bits do."
        )
    notes += _aspect_notes(encoder, properties, suffix)
    matrix, full_range = properties.matrix, properties.full_range and not properties.is_rgb
    if matrix not in MATRICES:
        notes.append("the source's colour matrix cannot be written: the output's is BT.709, with the same colours.")
        matrix = BT709
    if _is_rgb(pix_fmt):
        matrix, full_range = RGB_MATRIX, True
    if full_range and encoder.limited_only:
        notes.append(f"{encoder.name} is written in the limited range of levels here; the colours are the same.")
        full_range = False
    options = _options(encoder, properties, wishes, pix_fmt, matrix)
    if suffix == ".avi" and encoder.ffmpeg == "libx264":
        options["bf"] = "0"  # an avi has no times of display, only an order
    if wishes.options:
        check_values(encoder, pix_fmt, options)
    encoding = Encoding(
        encoder=encoder.ffmpeg,
        pix_fmt=pix_fmt,
        options=tuple(sorted(options.items())),
        suffix=".nut" if suffix == ".avi" and encoder.name == "h264" else encoder.segment,
        deep=out_depth > 8,
        matrix=matrix,
        primaries=properties.primaries,
        transfer=properties.transfer,
        full_range=full_range,
        chroma=_chroma(encoder, properties),
        sample_aspect=properties.sample_aspect.as_integer_ratio(),
        rate=_sane_rate(properties.rate),
    )
    return encoding, notes


def _hdr_notes(encoder: Encoder, properties: Properties, depth: int, suffix: str) -> list[str]:
    """What of high dynamic range is not kept. Raises :class:`UserError` if that is too much."""
    if not properties.is_hdr:
        return []
    if depth == 8 or encoder.ffmpeg in ("libx264", "h264_nvenc") or encoder.is_rgb:
        raise UserError(
            f"high dynamic range cannot be kept by {encoder.name} in {suffix} files: use hevc or av1 in .mp4 or .mkv, "
            "or convert the input to SDR first."
        )
    if (properties.mastering or properties.light_levels) and encoder.ffmpeg not in ("libx265", "libsvtav1"):
        return [f"{encoder.name} does not keep what the input says of the display that it was graded on; hevc does."]
    return []


def _aspect_notes(encoder: Encoder, properties: Properties, suffix: str) -> list[str]:
    """That pixels which are no squares become squares: PyAV cannot tell a container of them that is not an mp4 or mov.

    H.264 and HEVC say it themselves.
    """
    aspect, says_it = properties.sample_aspect, encoder.ffmpeg.startswith(("libx26", "h264_", "hevc_"))
    if aspect == 1 or says_it or suffix in (".mp4", ".m4v", ".mov"):
        return []
    return [
        f"the input's pixels are {aspect.numerator}:{aspect.denominator}, which {encoder.name} in {suffix} files does "
        "not say: players will show square ones; h264 and hevc, and .mp4 and .mov files, keep it."
    ]


def _encoder(suffix: str, wishes: Wishes, properties: Properties, hardware: bool | None) -> tuple[Encoder, list[str]]:
    """The encoder that was asked for, or its software twin where it does not open, here or where it is to work."""
    if suffix not in CONTAINERS:
        raise UserError(f"{suffix or 'a name without suffix'} is not a video: use {', '.join(CONTAINERS)}.")
    names = CONTAINERS[suffix]
    usual = next((name for name in ("hevc", "av1") if name in names), names[0]) if properties.is_hdr else names[0]
    name = wishes.codec or usual
    name = NAMES.get(name, name)
    if name not in ENCODERS:
        near = meant(name, [*NAMES, *ENCODERS])
        raise UserError(f"there is no codec {name}{near} use one of {', '.join(ENCODERS)}.")
    if name not in names:
        others = [other for other, taken in CONTAINERS.items() if name in taken]
        raise UserError(
            f"{suffix} files do not take {name}: use {', '.join(names)} in them, or {', '.join(others)} for {name}."
        )
    encoder = ENCODERS[name]
    if encoder.software is None:
        if encoder.ffmpeg not in av.codec.codecs_available:
            raise UserError(f"{name} is not in the FFmpeg that PyAV brings here: use another codec.")
        return encoder, []
    if encoder_opens(name) if hardware is None else hardware:
        return encoder, []
    where = "on this machine" if hardware is None else "on the machines that do the work"
    if encoder.software not in names:
        raise UserError(f"{name} does not work {where}, and {suffix} takes nothing like it: use another codec.")
    return ENCODERS[encoder.software], [
        f"{name} does not work {where} (an opening test failed): {encoder.software} is used."
    ]


def _pixel_format(encoder: Encoder, wished: str | None, deep: bool) -> str:
    formats = [entry.name for entry in Codec(encoder.ffmpeg, "w").video_formats or []]
    if wished is None:
        return encoder.deep if deep and encoder.deep else encoder.shallow
    if wished not in formats or wished not in encoder.formats:
        usable = [name for name in encoder.formats if name in formats]
        raise UserError(f"{encoder.name} does not take the pixel format {wished}: use {', '.join(usable)}.")
    return wished


def _depth(pix_fmt: str) -> int:
    return max(component.bits for component in av.VideoFormat(pix_fmt).components)


def _is_rgb(pix_fmt: str) -> bool:
    return bool(av.VideoFormat(pix_fmt).is_rgb)


def _options(encoder: Encoder, properties: Properties, wishes: Wishes, pix_fmt: str, matrix: int) -> dict[str, str]:
    quality = encoder.quality.default if wishes.quality is None else wishes.quality
    low, high = encoder.quality.limits
    if encoder.quality.option is None:
        if wishes.quality is not None:
            raise UserError(f"{encoder.name} is lossless: it takes no quality.")
        options: dict[str, str] = {}
    elif not low <= quality <= high:
        raise UserError(f"{encoder.name} takes a quality from {low}, the best, to {high}, not {quality}.")
    else:
        options = {encoder.quality.option: str(quality)}
    if wishes.preset is not None and encoder.preset is None:
        raise UserError(f"{encoder.name} has no presets: leave it out.")
    if encoder.preset is not None:
        options[encoder.preset.option] = wishes.preset or encoder.preset.default
        if options[encoder.preset.option] not in encoder.preset.values:
            presets = ", ".join(encoder.preset.values)
            raise UserError(f"{encoder.name} takes the presets {presets}, not {wishes.preset}.")
    options.update(encoder.fixed)
    if matrix != RGB_MATRIX and "420" in pix_fmt:
        options["chroma_sample_location"] = _chroma(encoder, properties)
    parameters = {**encoder.parameters, **hdr_parameters(encoder, properties)}
    given = dict(wishes.options)
    check_options(encoder, given)
    if encoder.parameters_option:
        own = given.pop(encoder.parameters_option, "")
        options[encoder.parameters_option] = ":".join(
            [*(f"{key}={value}" for key, value in parameters.items()), *([own] if own else [])]
        )
    return options | given


FIXED = (
    *("threads", "thread_type", "slices", "flags", "flags2", "time_base", "pixel_format", "video_size", "colorspace"),
    *("color_primaries", "color_trc", "color_range", "aspect", "sar", "strict", "codec_tag"),
)
"""Options that are set here, and that segments or colours depend on."""


def check_options(encoder: Encoder, given: Mapping[str, str]) -> None:
    """Raise :class:`UserError` for options that the encoder does not have, and for those that are set here."""
    known = CodecContext.create(encoder.ffmpeg, "w").supported_options
    generic = [option for option in known.generic if option.flags & 1 and option.flags & 16]  # encoding, video
    names = sorted({option.name for option in (*generic, *known.private)})
    for name in given:
        if name in FIXED:
            raise UserError(f"the option {name} is set by this program, and segments depend on it: leave it out.")
        if name not in names:
            raise UserError(
                f"{encoder.name} has no option {name}{meant(name, names)} ffmpeg -h encoder={encoder.ffmpeg} "
                "lists them."
            )


def _chroma(encoder: Encoder, properties: Properties) -> str:
    """The source's, where the codec can say so."""
    return properties.chroma_location if properties.chroma_location in encoder.chroma else "left"


def _sane_rate(rate: Fraction) -> tuple[int, int]:
    """A rate that an encoder can count in; the joined file has the source's own times."""
    simple = rate.limit_denominator(1001)
    return (simple if 0 < simple <= 1000 else Fraction(24)).as_integer_ratio()
