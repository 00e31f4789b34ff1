"""The yardstick: what one writes first, FastAPI and `tritonclient.http.aio`, nothing else.

It names no version, checks nothing but types, counts nothing. Run by uvicorn in one worker.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import tritonclient.http.aio as triton_http
from fastapi import FastAPI, Request
from pydantic import BaseModel


class PredictRequest(BaseModel):
    """Rows of features."""

    data: list[list[float]]
    client_id: str | None = None


class PredictResponse(BaseModel):
    """Labels and probabilities."""

    predictions: list[int]
    probabilities: list[list[float]]


def app() -> FastAPI:
    """The application, for `uvicorn --factory`."""
    url = os.environ["TRITON_URL"].removeprefix("http://")
    model = os.environ["MODEL_NAME"]

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with triton_http.InferenceServerClient(url, conn_limit=100) as client:
            application.state.triton = client
            yield

    application = FastAPI(lifespan=lifespan)

    @application.post("/predict")
    async def predict(body: PredictRequest, request: Request) -> PredictResponse:
        rows = np.asarray(body.data, dtype=np.float32)
        tensor = triton_http.InferInput("features", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        result: Any = await request.app.state.triton.infer(model, [tensor])
        return PredictResponse(
            predictions=result.as_numpy("label").ravel().tolist(),
            probabilities=result.as_numpy("probabilities").tolist(),
        )

    return application
