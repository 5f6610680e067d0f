"""Tests mirror the packages of scmf; `ROOT` is the checkout."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
