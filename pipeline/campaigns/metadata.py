"""What all tables of the relational store belong to, so that one look compares them with those that were made."""

from typing import Final

from sqlalchemy import MetaData

METADATA: Final = MetaData()
