"""The web apps behind `deepviz serve`: images, methods and classes compared in a browser, and the rows of a run."""

from deepviz.errors import MissingExtra

try:
    import fastapi as _fastapi  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError:
    raise MissingExtra("the web app needs FastAPI and uvicorn: pip install 'deepviz[web]'") from None

from deepviz.web.app import create_app
from deepviz.web.limits import Limits
from deepviz.web.run_app import create_run_app
from deepviz.web.serving import address, listening, serve

__all__ = ["Limits", "address", "create_app", "create_run_app", "listening", "serve"]
