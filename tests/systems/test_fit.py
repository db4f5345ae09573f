"""`fit`, `evaluate` and `predict` on changing shapes, on one device."""

import keras
import numpy as np
import pytest
import tiny

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module", params=tiny.traced(tiny.PAC), ids=lambda system: system.__name__)
def fitted(request):
    """A system after an epoch of changing shapes without learning, its History, and the losses.

    One trace serves all tests below; the learning rate is a variable.
    """
    model = tiny.build(request.param, seed=1)
    model.compile(keras.optimizers.Adam(0.0), weight_decay=0.0, clip_norm=10.0)
    batches = tiny.shapes_a_a_b_a()
    by_hand = [tiny.loss_values(model, batch, training=True) for batch in batches]
    history = model.fit(tiny.dataset(batches), verbose=0).history
    return model, batches, history, by_hand


def test_history_is_the_mean_of_the_batches(fitted):
    _, _, history, by_hand = fitted
    expected = {name: np.mean([losses[name] for losses in by_hand]) for name in by_hand[0]}
    assert {name: values[0] for name, values in history.items()} == pytest.approx(
        expected, rel=1e-4
    )


def test_evaluate_is_the_mean_of_the_batches(fitted):
    model, batches, _, _ = fitted
    by_hand = [tiny.loss_values(model, batch, training=False) for batch in batches]
    expected = {name: np.mean([losses[name] for losses in by_hand]) for name in by_hand[0]}
    found = model.evaluate(tiny.dataset(batches), verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-4)


def test_predict_is_call_on_every_shape(fitted):
    model, batches, _, _ = fitted
    found = model.predict(tiny.dataset(batches), verbose=0)._asdict()
    expected = [tiny.numbers(model(tiny.tensors(batch.images))) for batch in batches]
    assert all(np.any(detections["labels"] >= 0) for detections in expected)
    for name, value in found.items():
        by_hand = np.concatenate([detections[name] for detections in expected])
        np.testing.assert_allclose(value, by_hand, rtol=1e-3, atol=1e-3, err_msg=name)


def test_loss_falls_on_a_repeated_batch(fitted):
    model, batches, _, _ = fitted
    model.optimizer.learning_rate = 0.003
    repeated = tiny.dataset(batches[:1], 4)
    losses = model.fit(repeated, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0], losses
