// One call for many runs: what is asked while a call is under way goes together in the next one.

/** What is asked for, and answered, is for one run. */
type OfRun = { runId: string };

/** The most runs in one call. */
const MOST = 50;
/** How long a call waits until as many runs are there as the last one had, if that has just been. */
const GATHER_MS = 2;
const JUST_MS = 20;

type Waiting<I, O> = { asked: I; answer: PromiseWithResolvers<O | undefined> };

/**
 * Asks by `askAll`, one call at a time, and gives each what was answered for its run; undefined when nothing was. When no
 * call is under way a run goes at once; where several went together just now, the next ones are waited for, 2 ms at most.
 * `observe` is told how many seconds each call took. A call that fails fails all that were in it.
 */
export function coalesced<I extends OfRun, O extends OfRun>(
  askAll: (asked: I[]) => Promise<O[]>,
  observe?: (seconds: number) => void,
): (asked: I) => Promise<O | undefined> {
  let waiting: Waiting<I, O>[] = [];
  let isUnderWay = false;
  let last = { size: 1, endedAt: 0 };
  /** Called when as many wait as the last call had. */
  let onGathered: (() => void) | undefined;

  async function askWaiting(): Promise<void> {
    isUnderWay = true;
    while (waiting.length > 0) {
      await gathered();
      const [batch, rest] = split(waiting);
      waiting = rest;
      await askBatch(batch);
      last = { size: batch.length, endedAt: performance.now() };
    }
    isUnderWay = false;
  }

  async function gathered(): Promise<void> {
    if (waiting.length >= last.size || performance.now() - last.endedAt > JUST_MS) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, GATHER_MS);
    onGathered = resolve;
    await promise;
    onGathered = undefined;
    clearTimeout(timer);
  }

  async function askBatch(batch: Waiting<I, O>[]): Promise<void> {
    const began = performance.now();
    try {
      const answered = await askAll(batch.map((each) => each.asked));
      observe?.((performance.now() - began) / 1000);
      const byRun = new Map(answered.map((each) => [each.runId, each]));
      for (const { asked, answer } of batch) answer.resolve(byRun.get(asked.runId));
    } catch (error) {
      for (const { answer } of batch) answer.reject(error);
    }
  }

  return (asked) => {
    const answer = Promise.withResolvers<O | undefined>();
    waiting.push({ asked, answer });
    if (!isUnderWay) void askWaiting();
    else if (waiting.length >= last.size) onGathered?.();
    return answer.promise;
  };
}

/** A run is in a call once: who asks for it a second time must find what the first has left. */
function split<I extends OfRun, O>(
  waiting: Waiting<I, O>[],
): [batch: Waiting<I, O>[], rest: Waiting<I, O>[]] {
  const batch = new Map<string, Waiting<I, O>>();
  const rest: Waiting<I, O>[] = [];
  for (const each of waiting) {
    if (batch.size < MOST && !batch.has(each.asked.runId)) batch.set(each.asked.runId, each);
    else rest.push(each);
  }
  return [[...batch.values()], rest];
}
