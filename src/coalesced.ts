// One call for many: what is asked while a call is under way goes together in the next one.
import { setImmediate as turn } from "node:timers/promises";

/** How long after a call the next ones are waited for, where that is wanted at all. */
const JUST_MS = 20;

/** Who waits for the next call. */
export type Waiting<I, O> = { readonly asked: I; readonly answer: PromiseWithResolvers<O> };

/** How what comes together is asked together. */
export type Together<I, O> = {
  /** Asks for all of a batch, and answers each in its place. One that fails fails all of the batch, and no other. */
  askAll(batch: I[]): Promise<readonly O[]>;
  /** Which go next of those that wait. At least one, where one waits. */
  take(waiting: Iterable<Waiting<I, O>>): Waiting<I, O>[];
  /**
   * How long a call waits until as many are there as the last one had, if that has just been. 0: nothing is waited for, but
   * those that were answered together have one turn of the event loop to come again.
   */
  gatherMs: number;
  /** Called when nothing is under way, and nobody waits. */
  onIdle?(): void;
};

/** Asks, together with others. Who leaves by the signal before the call is asked for no more, and has its reason. */
export type Ask<I, O> = (asked: I, signal?: AbortSignal) => Promise<O>;

/** Asks by `askAll`, one call at a time. When none is under way, the first goes in the same tick. */
export function coalesced<I, O>({ askAll, take, gatherMs, onIdle }: Together<I, O>): Ask<I, O> {
  const waiting = new Set<Waiting<I, O>>();
  let isUnderWay = false;
  let last = { size: 1, endedAt: 0 };
  /** Called when as many wait as the last call had. */
  let onGathered: (() => void) | undefined;

  async function askWaiting(): Promise<void> {
    isUnderWay = true;
    await undefined; // who asks in the same tick goes along
    while (waiting.size > 0) {
      if (gatherMs > 0) await gathered();
      const batch = take(waiting);
      for (const each of batch) waiting.delete(each);
      await askBatch(batch);
      last = { size: batch.length, endedAt: performance.now() };
      if (gatherMs === 0 && batch.length > 1) await turn();
    }
    isUnderWay = false;
    onIdle?.();
  }

  async function gathered(): Promise<void> {
    if (waiting.size >= last.size || performance.now() - last.endedAt > JUST_MS) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, gatherMs);
    onGathered = resolve;
    await promise;
    onGathered = undefined;
    clearTimeout(timer);
  }

  async function askBatch(batch: Waiting<I, O>[]): Promise<void> {
    if (batch.length === 0) return; // all that waited have left
    try {
      const answers = await askAll(batch.map((each) => each.asked));
      for (const [place, { answer }] of batch.entries()) answer.resolve(answers[place] as O);
    } catch (error) {
      for (const { answer } of batch) answer.reject(error);
    }
  }

  return (asked, signal) => {
    const each = { asked, answer: Promise.withResolvers<O>() };
    waiting.add(each);
    if (!isUnderWay) void askWaiting();
    else if (waiting.size >= last.size) onGathered?.();
    if (signal === undefined) return each.answer.promise;

    const leave = () => {
      if (waiting.delete(each)) each.answer.reject(signal.reason);
    };
    signal.addEventListener("abort", leave, { once: true });
    return each.answer.promise.finally(() => signal.removeEventListener("abort", leave));
  };
}
