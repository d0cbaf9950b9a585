"""Ready is said once all interfaces listen and all models are warm, and no longer once the service ends."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from securetf.serving.options import Options
from securetf.serving.service import Service


@pytest.mark.parametrize(
    ("listening", "warm", "draining", "ready"),
    [
        (True, True, False, True),
        (False, True, False, False),  # HTTP may answer, gRPC does not listen yet
        (True, False, False, False),
        (True, True, True, False),
    ],
)
def test_readiness_when_an_interface_or_a_model_is_not_there_yet_is_not_said(
    listening: bool, warm: bool, draining: bool, ready: bool
) -> None:
    models = SimpleNamespace(ready=lambda: warm, names=list)
    service = Service(Options(models=Path()), models, SimpleNamespace(problem=""), None)
    service.listening, service.draining = listening, draining
    assert service.ready() is ready
    assert f"securetf_serving_ready {int(ready)}" in service.metrics.text()
