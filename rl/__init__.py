"""Imported before any module of this room: an interrupt of its commands ends quietly."""

from toolshed import early_interrupt

early_interrupt.until_the_command_runs()
