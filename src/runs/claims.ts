// Claims of runs: tokens that arrive while a claim is under way go together in the next one.
import type { ClaimedRun } from "../jobs.ts";

/** What a token of the queue carries. */
export type RunToken = { tenantId: string; runId: string };

/** Claims the run of a token; undefined when there is nothing to do. Throws what the claim threw. */
export type Claim = (token: RunToken) => Promise<ClaimedRun | undefined>;

/** The most runs in one claim. */
const MOST = 50;
/** How long a claim waits until as many tokens are there as the last one had, if that has just been. */
const GATHER_MS = 2;
const JUST_MS = 20;

type Waiting = { token: RunToken; answer: PromiseWithResolvers<ClaimedRun | undefined> };

/**
 * Claims by `claimAll`, one call at a time. When none is under way a token goes at once; where several went together
 * just now, their next ones are waited for, 2 ms at most. `observe` is told how many seconds each call took. A claim that
 * fails fails all of its tokens, which the queue tries again.
 */
export function coalescedClaims(
  claimAll: (tokens: RunToken[]) => Promise<ClaimedRun[]>,
  observe?: (seconds: number) => void,
): Claim {
  let waiting: Waiting[] = [];
  let isUnderWay = false;
  let last = { size: 1, endedAt: 0 };
  /** Called when as many wait as the last claim had. */
  let onGathered: (() => void) | undefined;

  async function claimWaiting(): Promise<void> {
    isUnderWay = true;
    while (waiting.length > 0) {
      await gathered();
      const [batch, rest] = split(waiting);
      waiting = rest;
      await claimBatch(batch);
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

  async function claimBatch(batch: Waiting[]): Promise<void> {
    const began = performance.now();
    try {
      const claimed = await claimAll(batch.map((each) => each.token));
      observe?.((performance.now() - began) / 1000);
      const byRun = new Map(claimed.map((each) => [each.runId, each]));
      for (const { token, answer } of batch) answer.resolve(byRun.get(token.runId));
    } catch (error) {
      for (const { answer } of batch) answer.reject(error);
    }
  }

  return (token) => {
    const answer = Promise.withResolvers<ClaimedRun | undefined>();
    waiting.push({ token, answer });
    if (!isUnderWay) void claimWaiting();
    else if (waiting.length >= last.size) onGathered?.();
    return answer.promise;
  };
}

/** A run is in a batch once: a second token of it must find it taken. */
function split(waiting: Waiting[]): [batch: Waiting[], rest: Waiting[]] {
  const batch = new Map<string, Waiting>();
  const rest: Waiting[] = [];
  for (const each of waiting) {
    if (batch.size < MOST && !batch.has(each.token.runId)) batch.set(each.token.runId, each);
    else rest.push(each);
  }
  return [[...batch.values()], rest];
}
