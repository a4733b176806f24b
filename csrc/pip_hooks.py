"""setuptools' build backend; what it needs in an isolated build depends on whether kernels are built.

They are built against torch's stable interface, so whichever torch from 2.11 on pip finds here serves every other one.
Source archives, prebuilt parts and XMAE_FAST_BUILD=none need no torch, so none is fetched. A build that is bound to
fail for want of a compiler fails before torch is fetched.
"""

from __future__ import annotations

import os

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the other hooks are as they are

from csrc.choosing import NEEDED, choice, missing_compiler, refuse


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return [*_needed(), *build_meta.get_requires_for_build_wheel(config_settings)]


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return [*_needed(), *build_meta.get_requires_for_build_editable(config_settings)]


def _needed() -> list[str]:
    asked = choice()
    if asked == "none" or os.environ.get("XMAE_FAST_PREBUILT"):
        return []
    refuse(asked, missing_compiler())
    return list(NEEDED)
