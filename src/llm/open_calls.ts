// The calls of this process that are out: a stop waits for them, so that each can still write how it ended.
import type { Db } from "../db.ts";
import { AppError } from "../errors.ts";

const open = new Set<{ db: Db; cut: AbortController; ended: Promise<unknown> }>();

/** Begins a call whose hold is in `db`, and gives its answer; it counts as out until `work` has ended. */
export function openCall<T>(db: Db, work: (cut: AbortSignal) => Promise<T>): Promise<T> {
  const cut = new AbortController();
  const answer = work(cut.signal);
  const call = { db, cut, ended: answer.catch(() => {}) };
  open.add(call);
  void call.ended.then(() => open.delete(call));
  return answer;
}

/**
 * Waits until the calls are settled that are out now and whose holds are in `db`: to be awaited before its
 * pool is closed. What is still out after `patienceMs` is cut, and its hold presumed.
 */
export async function endOfCalls(db: Db, patienceMs: number): Promise<void> {
  const calls = [...open].filter((call) => call.db === db);
  const timer = setTimeout(() => {
    for (const { cut } of calls) cut.abort(new AppError("shutdown"));
  }, patienceMs);
  await Promise.all(calls.map(({ ended }) => ended));
  clearTimeout(timer);
}
