// One call for many runs.
import { coalesced as together, type Waiting } from "../coalesced.ts";

/** What is asked for, and answered, is for one run. */
type OfRun = { runId: string };

/** The most runs in one call. */
const MOST = 50;
/** How long a call waits until as many runs are there as the last one had, if that has just been. */
const GATHER_MS = 2;

/**
 * Asks by `askAll`, one call at a time, and gives each what was answered for its run; undefined when nothing was. When no
 * call is under way a run goes at once; where several went together just now, the next ones are waited for, 2 ms at most.
 * `observe` is told how many seconds each call took. A call that fails fails all that were in it.
 */
export function coalesced<I extends OfRun, O extends OfRun>(
  askAll: (asked: I[]) => Promise<O[]>,
  observe?: (seconds: number) => void,
): (asked: I) => Promise<O | undefined> {
  const ask = together<I, O | undefined>({
    gatherMs: GATHER_MS,
    take: eachRunOnce,
    async askAll(batch) {
      const began = performance.now();
      const answered = await askAll(batch);
      observe?.((performance.now() - began) / 1000);
      const byRun = new Map(answered.map((each) => [each.runId, each]));
      return batch.map((asked) => byRun.get(asked.runId));
    },
  });
  return (asked) => ask(asked);
}

/** A run is in a call once: who asks for it a second time must find what the first has left. */
function eachRunOnce<I extends OfRun, O>(waiting: Iterable<Waiting<I, O>>): Waiting<I, O>[] {
  const batch = new Map<string, Waiting<I, O>>();
  for (const each of waiting) {
    if (batch.size === MOST) break;
    if (!batch.has(each.asked.runId)) batch.set(each.asked.runId, each);
  }
  return [...batch.values()];
}
