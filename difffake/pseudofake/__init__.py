"""Pseudo-deepfakes made from real faces, and what streams do to pictures."""

from difffake.pseudofake import paste
from difffake.pseudofake.bank import FaceBank, usable_landmarks
from difffake.pseudofake.capture import capture
from difffake.pseudofake.codec import through_codec
from difffake.pseudofake.contact_sheet import contact_sheet, write_contact_sheets
from difffake.pseudofake.decoder import FaceDecoder, decoder_of, fit_decoder
from difffake.pseudofake.degrade import degrade, degrade_companions, degrade_pairs
from difffake.pseudofake.families import FAMILIES, Family, draw_family, make_fake, make_pair, shares_of
from difffake.pseudofake.generator import FaceGenerator
from difffake.pseudofake.masks import Mask, draw_mask

__all__ = [
    "FAMILIES",
    "FaceBank",
    "FaceDecoder",
    "FaceGenerator",
    "Family",
    "Mask",
    "capture",
    "contact_sheet",
    "decoder_of",
    "degrade",
    "degrade_companions",
    "degrade_pairs",
    "draw_family",
    "draw_mask",
    "fit_decoder",
    "make_fake",
    "make_pair",
    "paste",
    "shares_of",
    "through_codec",
    "usable_landmarks",
    "write_contact_sheets",
]
