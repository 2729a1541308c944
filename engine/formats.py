"""Which files are taken for sound by their names; whether they are, only decoding says."""

from __future__ import annotations

_LOSSLESS = (
    ".wav .wave .bwf .rf64 .w64 .flac .aif .aiff .aifc .afc .caf .au .snd .voc .nist .sph .ircam .avr .svx .paf .pvf "
    ".wv .ape .tta .alac .dsf .dff"
)
_LOSSY = ".mp1 .mp2 .mp3 .mpga .ogg .oga .opus .spx .m4a .m4b .m4r .aac .adts .wma .asf .ac3 .eac3 .dts .amr .mpc .mka"
_VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .wmv .mpg .mpeg .mts .m2ts .flv .3gp .ogv .mxf"

AUDIO_SUFFIXES = frozenset(f"{_LOSSLESS} {_LOSSY} {_VIDEO}".split())
"""Extensions, in lower case and with their dot, of files that are taken for sound."""

SIDECAR_SUFFIX = ".caption.txt"
"""What follows the whole name of a sound in that of the file that says what is heard in it."""
