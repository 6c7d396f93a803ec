// Holds and settlements of one tenant, together: a budget that many want is locked once for all of them.
import {
  type AnswerFacts,
  askText,
  type Hold,
  type HoldRequest,
  release,
  reserveMany,
  type Settlement,
  settleMany,
  settleText,
  type Usage,
} from "../budgets.ts";
import { type Ask, coalesced, type Waiting } from "../coalesced.ts";
import type { Db } from "../db.ts";
import { AppError } from "../errors.ts";
import { openCall } from "../llm/open_calls.ts";
import { STATEMENT_MS } from "../tickets.ts";

/**
 * The most in one statement. Measured, with one statement under way: 50 holds go at twice the rate of 10, 200 at three
 * times; beyond that each waits in proportion, for little more.
 */
const MOST = 200;
/** A statement that the server neither ends nor answers is given up: its time limit, and what a network may take. */
const GIVEN_UP_MS = STATEMENT_MS + 5_000;

type Item = { kind: "settle" | "reserve"; text: string };
type Answer = Settlement | Hold | AppError;

/** Tenants with something under way: who has nothing asked for leaves no entry. */
const lanes = new WeakMap<Db, Map<string, Ask<Item, Answer>>>();

/**
 * `reserve`, together with what this process asks for the same tenant at the same time: one statement at a time is under
 * way for a tenant, and what comes meanwhile goes together in the next, settlements first. One alone goes at once.
 *
 * Throws the error of its own refusal, as `reserve` does; `budget_busy` and the errors of the statement are those of all
 * that were in it. A caller that leaves by its signal has the signal's reason at once: what was not yet asked for never
 * is, and a hold that comes too late for it is released, as nothing can have been sent; should that fail, it lapses and
 * counts as presumed.
 */
export async function reserveTogether(
  db: Db,
  tenantId: string,
  ask: HoldRequest,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Hold> {
  const text = askText(ask);
  signal?.throwIfAborted();
  const held = together(db, tenantId, { kind: "reserve", text }, signal) as Promise<Hold>;
  if (signal === undefined) return held;

  const gone = Promise.withResolvers<never>();
  const leave = () => {
    gone.reject(signal.reason);
    openCall(db, () => held.then((hold) => giveBack(db, tenantId, hold))).catch(() => {});
  };
  signal.addEventListener("abort", leave, { once: true });
  return Promise.race([held, gone.promise]).finally(() => signal.removeEventListener("abort", leave));
}

/** A hold that was there before is not ours alone: its call may have been made. */
async function giveBack(db: Db, tenantId: string, hold: Hold): Promise<void> {
  if (!hold.replayed) await release(db, tenantId, hold.id, "caller_left");
}

/** `settle`, together with what this process asks for the same tenant, as `reserveTogether`. */
export async function settleTogether(
  db: Db,
  tenantId: string,
  reservationId: string,
  usage: Usage,
  facts?: Partial<AnswerFacts>,
): Promise<Settlement> {
  const text = settleText({ reservationId, usage, facts });
  return together(db, tenantId, { kind: "settle", text }) as Promise<Settlement>;
}

/** How many tenants have something under way. */
export function tenantsUnderWay(db: Db): number {
  return lanes.get(db)?.size ?? 0;
}

async function together(
  db: Db,
  tenantId: string,
  item: Item,
  signal?: AbortSignal,
): Promise<Settlement | Hold> {
  const answer = await laneOf(db, tenantId)(item, signal);
  if (!(answer instanceof AppError)) return answer;
  const { reason } = answer.detail;
  const known = answer.code === "budget_exceeded" && typeof reason === "string";
  db.budgets?.observe?.refused(known ? reason : answer.code);
  throw answer;
}

function laneOf(db: Db, tenantId: string): Ask<Item, Answer> {
  let ofTenants = lanes.get(db);
  if (ofTenants === undefined) {
    ofTenants = new Map();
    lanes.set(db, ofTenants);
  }
  let lane = ofTenants.get(tenantId);
  if (lane === undefined) {
    lane = coalesced({
      gatherMs: 0,
      take: settlesFirst(),
      askAll: (batch) => askAll(db, tenantId, batch),
      onIdle: () => lanes.get(db)?.delete(tenantId),
    });
    ofTenants.set(tenantId, lane);
  }
  return lane;
}

/** Settlements go first, for they free money; but after them those that want it, so that nobody waits for ever. */
function settlesFirst(): (waiting: Iterable<Waiting<Item, Answer>>) => Waiting<Item, Answer>[] {
  let turn: Item["kind"] = "settle";
  return (waiting) => {
    const batches: Record<Item["kind"], Waiting<Item, Answer>[]> = { settle: [], reserve: [] };
    for (const each of waiting) {
      const batch = batches[each.asked.kind];
      if (batch.length < MOST) batch.push(each);
    }
    if (batches[turn].length === 0) turn = after(turn);
    const batch = batches[turn];
    turn = after(turn);
    return batch;
  };
}

function after(kind: Item["kind"]): Item["kind"] {
  return kind === "settle" ? "reserve" : "settle";
}

async function askAll(db: Db, tenantId: string, batch: Item[]): Promise<readonly Answer[]> {
  db.budgets?.observe?.batch(batch.length);
  const send = batch[0]?.kind === "settle" ? settleMany : reserveMany;
  const texts = batch.map((each) => each.text);
  const givenUp = new AbortController();
  const timer = setTimeout(() => {
    givenUp.abort(new DOMException(`no answer within ${GIVEN_UP_MS} ms`, "TimeoutError"));
  }, GIVEN_UP_MS);
  try {
    return await send(db, tenantId, texts, { signal: givenUp.signal });
  } finally {
    clearTimeout(timer);
  }
}
