"""TensorFlow: one tf.function trains the whole epoch in a while loop, compiled by XLA or not.

Which of the two is faster depends on the task (XLA on dense steps, not with dropout).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fusedmlp.bench.adapter import Adapter, Outcome, Training
from fusedmlp.optimizers import Adam


class GraphTraining(Training):
    def __init__(self, task, inputs, *, jit):
        self._task, self.exact = task, not task.dropout
        self._x = tf.constant(inputs.floats(task.dtype))
        self._y = tf.constant(inputs.y.astype(np.int32))
        self._variables = [tf.Variable(a) for a in inputs.start]
        moments = 2 if task.optimizer == "adam" else 0
        self._moments = [
            [tf.Variable(tf.zeros_like(v)) for v in self._variables] for _ in range(moments)
        ]
        self._t = tf.Variable(0.0, dtype=task.dtype)
        self._run = tf.function(self._whole_epoch, jit_compile=jit)

    def epoch(self, order):
        B, rows = self._task.batch_size, order.astype(np.int32)
        whole = len(rows) - len(rows) % B
        batches = tf.constant(rows[:whole].reshape(-1, B))
        loss, correct = self._run(batches, tf.constant(rows[whole:]))
        return Outcome(float(loss) / len(order), int(correct) / len(order))

    def weights(self):
        return [variable.numpy() for variable in self._variables]

    def _whole_epoch(self, batches, rest):
        loss, correct = tf.zeros((), self._task.dtype), tf.zeros((), tf.int32)
        for index in tf.range(len(batches)):
            found = self._step(batches[index])
            loss, correct = loss + found[0], correct + found[1]
        if rest.shape[0]:
            found = self._step(rest)
            loss, correct = loss + found[0], correct + found[1]
        return loss, correct

    def _step(self, rows):
        task = self._task
        full = task.is_full_batch
        x, y = (self._x, self._y) if full else (tf.gather(self._x, rows), tf.gather(self._y, rows))
        activate = tf.nn.relu if task.hidden == "relu" else tf.sigmoid
        with tf.GradientTape() as tape:
            a = x
            pairs = list(zip(self._variables[::2], self._variables[1::2], strict=True))
            for W, b in pairs[:-1]:
                a = activate(tf.nn.bias_add(a @ W, b))
                if task.dropout:
                    a = tf.nn.dropout(a, task.dropout)
            logits = tf.nn.bias_add(a @ pairs[-1][0], pairs[-1][1])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            loss = tf.reduce_mean(losses)
        self._update(tape.gradient(loss, self._variables))
        right = tf.argmax(logits, axis=1, output_type=tf.int32) == y
        return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(right, tf.int32))

    def _update(self, gradients):
        task = self._task
        if task.optimizer == "sgd":
            for variable, gradient in zip(self._variables, gradients, strict=True):
                variable.assign_sub(task.lr * gradient)
            return
        adam = Adam(task.lr)
        t = self._t.assign_add(1.0)
        powers = [tf.pow(tf.constant(b, task.dtype), t) for b in (adam.beta1, adam.beta2)]
        arrays = zip(self._variables, gradients, *self._moments, strict=True)
        for variable, gradient, m, v in arrays:
            # The fused kernel that Keras's optimizer used to call.
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=adam.lr,
                beta1=adam.beta1,
                beta2=adam.beta2,
                epsilon=adam.eps,
                grad=gradient,
            )


class TensorFlowGraph(Adapter):
    """The whole epoch as a graph; with the argument ``xla``, compiled by XLA."""

    packages = ("tensorflow", "tensorflow-cpu")

    def __init__(self, threads, compiler=""):
        super().__init__(threads)
        self._jit = compiler == "xla"
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def training(self, task, inputs):
        return GraphTraining(task, inputs, jit=self._jit)
