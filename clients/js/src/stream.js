// What comes as events, read one after the other by `for await`.

/**
 * Begins to keep what `listen(put, end)` hands over, until it is read. `listen` returns what stops
 * it; it is called when the reader leaves. `most`: where the reader is slow the oldest go.
 */
export async function* stream(listen, most = 10_000) {
  const kept = [];
  let ended = false;
  let failure = null;
  let wake = () => {};
  const stop = listen(
    (value) => {
      if (kept.length === most) kept.shift();
      kept.push(value);
      wake();
    },
    (error = null) => {
      ended = true;
      failure = error;
      wake();
    },
  );
  try {
    for (;;) {
      while (kept.length > 0) yield kept.shift();
      if (failure) throw failure;
      if (ended) return;
      await new Promise((resolve) => (wake = resolve));
    }
  } finally {
    stop();
  }
}
