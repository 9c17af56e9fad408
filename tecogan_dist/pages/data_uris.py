"""Pictures as a page holds them, so that it loads nothing."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_uri(image: Image.Image, kind: str) -> str:
    """An image as a page holds it. ``kind``: JPEG or PNG."""
    data = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"optimize": True}
    image.save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
