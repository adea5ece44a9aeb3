"""The object model and the tables of the hot path."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # past SQLAlchemy's own reading of colons
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text())
