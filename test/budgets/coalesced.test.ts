import { randomUUID } from "node:crypto";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import type pg from "pg";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { reserveTogether, settleTogether, tenantsUnderWay } from "../../src/budgets/coalesced.ts";
import { budgetStatus, type Hold, type HoldRequest, reserve } from "../../src/budgets.ts";
import type { Db, ObserveBudgets } from "../../src/db.ts";
import { endOfCalls } from "../../src/llm/open_calls.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { testDatabase } from "../support/database.ts";
import { ledgerOf } from "../support/ledger.ts";

/** What costs 1,000,000 nano-USD at the most. */
function asked(more: Partial<HoldRequest> = {}): HoldRequest {
  return {
    idempotencyKey: randomUUID(),
    provider: "p",
    model: "m",
    inputTokensBound: 500,
    maxOutputTokens: 250,
    ...more,
  };
}

const used = { inputTokens: 100, outputTokens: 20, cachedInputTokens: 0 };

function observed() {
  const seen = { batches: [] as number[], refused: [] as string[], busy: 0 };
  const observe: ObserveBudgets = {
    batch: (size) => seen.batches.push(size),
    refused: (reason) => seen.refused.push(reason),
    busy: (count) => {
      seen.busy += count;
    },
  };
  return { seen, observe };
}

describe("on connections that answer when they are told to", () => {
  type Row = Record<string, unknown>;
  type Statement = {
    kind: "reserve" | "settle" | "release";
    tenantId: string;
    items: Row[];
    end(outcome?: Error): Promise<void>;
  };

  /** A pool whose statements are listed, and end by `end`. */
  function listed() {
    const statements: Statement[] = [];
    const query = (text: string, [tenantId, , list]: [string, string, string]) => {
      const kind = /llm_(reserve|settle|release)/.exec(text)![1] as Statement["kind"];
      const items: Row[] = kind === "release" ? [{ reservation_id: list }] : JSON.parse(list);
      const answer = Promise.withResolvers<{ rows: Row[] }>();
      const end = async (outcome?: Error) => {
        if (outcome === undefined)
          answer.resolve({ rows: items.map((item, place) => row(kind, item, place)) });
        else answer.reject(outcome);
        await settled();
      };
      statements.push({ kind, tenantId, items, end });
      return answer.promise;
    };
    const client = { processID: 1, release: () => {}, query };
    const pool = { connect: async () => client } as unknown as pg.Pool;
    const db: Db = { pool, ticketKey: TEST_TICKET_KEY };
    return { db, statements, kinds: () => statements.map((each) => `${each.kind} ${each.items.length}`) };
  }

  function row(kind: Statement["kind"], item: Row, place: number): Row {
    const money = { cost_nanousd: "1", over_hold_nanousd: "0", estimated_cost_nanousd: "1" };
    return {
      ...{
        n: place + 1,
        id: item["reservation_id"] ?? randomUUID(),
        status: kind === "settle" ? "APPLIED" : "RESERVED",
      },
      ...{ ...money, max_output_tokens: "250", expires_at: new Date() },
      ...{ replayed: item["model"] === "replayed", refusal: null, detail: null, hint: null },
    };
  }

  /** All that goes on without input has gone on. */
  async function settled(): Promise<void> {
    for (const _ of [1, 2, 3, 4]) await turn();
  }

  const settleOne = (db: Db, tenantId: string) => settleTogether(db, tenantId, randomUUID(), used);

  test("when idle, the first call's statement is sent in the same tick", async () => {
    const { db, kinds } = listed();
    // The first thing after this tick: nothing that was put off goes before it.
    const sent = turn().then(kinds);
    void reserveTogether(db, randomUUID(), asked());
    expect(await sent).toEqual(["reserve 1"]);
  });

  test("one statement is under way for a tenant; settlements go first, then holds, and nobody waits for ever", async () => {
    const { db, statements, kinds } = listed();
    const tenantId = randomUUID();
    const all = [reserveTogether(db, tenantId, asked())] as Promise<unknown>[];
    await settled();
    all.push(reserveTogether(db, tenantId, asked()), settleOne(db, tenantId), settleOne(db, tenantId));
    await settled();
    expect(kinds()).toEqual(["reserve 1"]);
    await statements[0]!.end();
    expect(kinds()).toEqual(["reserve 1", "settle 2"]);
    all.push(settleOne(db, tenantId), reserveTogether(db, tenantId, asked()));
    await statements[1]!.end();
    expect(kinds()).toEqual(["reserve 1", "settle 2", "reserve 2"]);
    await statements[2]!.end();
    expect(kinds()).toEqual(["reserve 1", "settle 2", "reserve 2", "settle 1"]);
    await statements[3]!.end();
    await Promise.all(all);
    expect(tenantsUnderWay(db)).toBe(0);
  });

  test("of those that come in one tick settlements go first, though they came last", async () => {
    const { db, statements, kinds } = listed();
    const tenantId = randomUUID();
    const all = Promise.all([reserveTogether(db, tenantId, asked()), settleOne(db, tenantId)]);
    await settled();
    expect(kinds()).toEqual(["settle 1"]);
    await statements[0]!.end();
    await statements[1]!.end();
    await all;
  });

  test("at most 200 go in a statement", async () => {
    const { db, statements, kinds } = listed();
    const tenantId = randomUUID();
    const all = Array.from({ length: 450 }, () => reserveTogether(db, tenantId, asked()));
    for (const place of [0, 1, 2]) {
      await settled();
      await statements[place]!.end();
    }
    await Promise.all(all);
    expect(kinds()).toEqual(["reserve 200", "reserve 200", "reserve 50"]);
  });

  test("two tenants do not wait for each other, and two databases neither", async () => {
    const { db, statements } = listed();
    const other = listed();
    const [one, two] = [randomUUID(), randomUUID()];
    const waits = reserveTogether(db, one, asked());
    const goes = reserveTogether(db, two, asked());
    const elsewhere = reserveTogether(other.db, one, asked());
    await settled();
    expect(statements.map((each) => each.tenantId)).toEqual([one, two]);
    expect(tenantsUnderWay(db)).toBe(2);
    await statements[1]!.end();
    await goes;
    expect(tenantsUnderWay(db)).toBe(1);
    await other.statements[0]!.end();
    await elsewhere;
    await statements[0]!.end();
    await waits;
    expect(tenantsUnderWay(db)).toBe(0);
  });

  test("an error of a statement is that of all in it, and of no other", async () => {
    const { db, statements } = listed();
    const tenantId = randomUUID();
    const lost = Promise.allSettled([
      reserveTogether(db, tenantId, asked()),
      reserveTogether(db, tenantId, asked()),
    ]);
    await settled();
    const next = reserveTogether(db, tenantId, asked());
    await statements[0]!.end(new Error("away"));
    for (const each of await lost)
      expect(each).toMatchObject({ status: "rejected", reason: { message: "away" } });
    await statements[1]!.end();
    expect(await next).toMatchObject({ status: "RESERVED" });
  });

  test("a statement that is never answered is given up, and those after it go on", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      const { db, statements } = listed();
      const tenantId = randomUUID();
      const lost = expect(reserveTogether(db, tenantId, asked())).rejects.toThrow(
        /no answer within 20000 ms/,
      );
      await settled();
      const next = reserveTogether(db, tenantId, asked());
      vi.advanceTimersByTime(20_000);
      await lost;
      await settled();
      await statements[1]!.end();
      expect(await next).toMatchObject({ status: "RESERVED" });
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  test("what is unreadable is refused before it can spoil the others", async () => {
    const { db, statements } = listed();
    const tenantId = randomUUID();
    const fine = reserveTogether(db, tenantId, asked());
    await expect(reserveTogether(db, tenantId, asked({ userId: "\u0000" }))).rejects.toMatchObject({
      code: "reservation_invalid",
    });
    await expect(settleTogether(db, tenantId, "nonsense", used)).rejects.toMatchObject({
      code: "reservation_not_found",
    });
    await settled();
    expect(statements).toHaveLength(1);
    await statements[0]!.end();
    await fine;
  });

  test("who has left already, or leaves while others are under way, is not asked for", async () => {
    const { db, statements, kinds } = listed();
    const tenantId = randomUUID();
    const signal = AbortSignal.abort(new Error("gone"));
    await expect(reserveTogether(db, tenantId, asked(), { signal })).rejects.toThrow("gone");
    const leaving = new AbortController();
    const first = reserveTogether(db, tenantId, asked());
    await settled();
    const left = expect(reserveTogether(db, tenantId, asked(), { signal: leaving.signal })).rejects.toThrow(
      "gone",
    );
    const stays = reserveTogether(db, tenantId, asked());
    leaving.abort(new Error("gone"));
    await left;
    await statements[0]!.end();
    await statements[1]!.end();
    await Promise.all([first, stays]);
    expect(kinds()).toEqual(["reserve 1", "reserve 1"]);
  });

  test("who leaves during the statement goes at once, and its hold is released; one that was there before is not", async () => {
    const { db, statements, kinds } = listed();
    const tenantId = randomUUID();
    const leaving = new AbortController();
    const options = { signal: leaving.signal };
    const left = [asked(), asked({ model: "replayed" })].map((ask) =>
      expect(reserveTogether(db, tenantId, ask, options)).rejects.toThrow("gone"),
    );
    const stays = reserveTogether(db, tenantId, asked());
    await settled();
    leaving.abort(new Error("gone"));
    await Promise.all(left);
    let isOver = false;
    const over = endOfCalls(db, 5_000).then(() => {
      isOver = true;
    });
    await statements[0]!.end();
    expect(await stays).toMatchObject({ status: "RESERVED" });
    expect(kinds()).toEqual(["reserve 3", "release 1"]);
    // A stop waits for what gives it back.
    expect(isOver).toBe(false);
    await statements[1]!.end();
    await over;
  });

  test("a call whose signal never comes leaves nothing behind on it", async () => {
    const { db, statements } = listed();
    const { signal } = new AbortController();
    const listeners = { added: 0, removed: 0 };
    const watched = {
      ...{ aborted: false, throwIfAborted: () => {} },
      addEventListener: (...given: Parameters<AbortSignal["addEventListener"]>) => {
        listeners.added += 1;
        signal.addEventListener(...given);
      },
      removeEventListener: () => {
        listeners.removed += 1;
      },
    } as unknown as AbortSignal;
    const held = reserveTogether(db, randomUUID(), asked(), { signal: watched });
    await settled();
    await statements[0]!.end();
    await held;
    expect(listeners.added).toBeGreaterThan(0);
    expect(listeners.removed).toBe(listeners.added);
  });
});

describe("on a database", () => {
  const database = testDatabase();
  const ledger = ledgerOf(database);
  beforeAll(() => ledger.setPrices());
  afterEach(async () => {
    expect(await ledger.broken()).toEqual([]);
  });

  function watched(lockTimeoutMs?: number) {
    const { seen, observe } = observed();
    const db: Db = { ...database.service, budgets: { lockTimeoutMs, observe } };
    return { db, seen };
  }

  const tenant = async (limitUsd = "1") => (await database.addTenant({ limitUsd })).tenantId;

  test("two hundred callers at once get exactly what the budget affords, and each its own refusal", async () => {
    const tenantId = await tenant("0.0379999");
    const { db, seen } = watched();
    const outcomes = await Promise.allSettled(
      Array.from({ length: 200 }, async (_, place) => {
        await sleep(place % 5);
        return reserveTogether(db, tenantId, asked());
      }),
    );
    const granted = outcomes.filter((each) => each.status === "fulfilled");
    const refused = outcomes.filter((each) => each.status === "rejected");
    expect(granted).toHaveLength(37);
    expect(new Set(granted.map((each) => each.value.id)).size).toBe(37);
    for (const { reason } of refused) {
      expect(reason).toMatchObject({ code: "budget_exceeded", status: 402, detail: { reason: "in_flight" } });
    }
    expect(seen.refused).toEqual(refused.map(() => "in_flight"));
    expect(seen.batches.reduce((sum, size) => sum + size, 0)).toBe(200);
    expect(seen.batches.length).toBeLessThan(60);
    expect(await ledger.balances(tenantId)).toMatchObject([{ reserved: 37_000_000 }]);
    expect(tenantsUnderWay(db)).toBe(0);
  });

  test("one that is refused among those that are held rejects its own promise alone", async () => {
    const tenantId = await tenant();
    const { db, seen } = watched();
    const outcomes = await Promise.allSettled([
      reserveTogether(db, tenantId, asked()),
      reserveTogether(db, tenantId, asked({ model: "unknown" })),
      reserveTogether(db, tenantId, asked({ maxOutputTokens: 100_000_000 })),
      reserveTogether(db, tenantId, asked()),
    ]);
    expect(outcomes.map((each) => each.status)).toEqual(["fulfilled", "rejected", "rejected", "fulfilled"]);
    expect(outcomes[1]).toMatchObject({
      reason: {
        code: "no_price",
        status: 402,
        detail: { model: "unknown" },
        hint: expect.stringMatching(/llm_price_set/),
      },
    });
    expect(seen).toMatchObject({ batches: [4], refused: ["no_price", "too_large"], busy: 0 });
  });

  test("money that is freed is there for the holds that came with it", async () => {
    const tenantId = await tenant("0.001");
    const { db } = watched();
    const { id } = await reserve(db, tenantId, asked());
    const first = expect(reserveTogether(db, tenantId, asked())).rejects.toMatchObject({
      code: "budget_exceeded",
    });
    await turn();
    const [second, settled] = await Promise.all([
      reserveTogether(db, tenantId, asked({ inputTokensBound: 100 })),
      settleTogether(db, tenantId, id, used),
    ]);
    await first;
    expect(settled).toMatchObject({ id, status: "APPLIED", cost_nanousd: 140_000n });
    expect(second).toMatchObject({ status: "RESERVED", estimated_cost_nanousd: 600_000n });
  });

  test("a budget that others keep locked is busy for its tenant, and for no other", async () => {
    const [locked, free] = [await tenant(), await tenant()];
    const { db, seen } = watched(300);
    await reserve(db, locked, asked());
    const holder = await database.superuser.connect();
    try {
      await holder.query("begin");
      await holder.query("select from app.llm_budget_periods where tenant_id = $1 for update", [locked]);
      const began = performance.now();
      const waits = Promise.allSettled([
        reserveTogether(db, locked, asked()),
        reserveTogether(db, locked, asked()),
      ]);
      expect(await reserveTogether(db, free, asked())).toMatchObject({ status: "RESERVED" });
      expect(performance.now() - began).toBeLessThan(290);
      for (const each of await waits) {
        expect(each).toMatchObject({ status: "rejected", reason: { code: "budget_busy", status: 503 } });
      }
    } finally {
      await holder.query("rollback");
      holder.release();
    }
    expect(seen.busy).toBe(2);
    expect(await reserveTogether(db, locked, asked())).toMatchObject({ status: "RESERVED" });
  });

  test("a caller that leaves gets its money back, and does not harm the others", async () => {
    const tenantId = await tenant("0.01");
    const { db } = watched();
    const leaving = new AbortController();
    const left = Array.from({ length: 5 }, () =>
      expect(reserveTogether(db, tenantId, asked(), { signal: leaving.signal })).rejects.toThrow("gone"),
    );
    const stay = Array.from({ length: 5 }, () => reserveTogether(db, tenantId, asked()));
    await turn();
    leaving.abort(new Error("gone"));
    await Promise.all(left);
    const held = await Promise.all(stay);
    await endOfCalls(db, 5_000);
    expect(new Set(held.map((each: Hold) => each.status))).toEqual(new Set(["RESERVED"]));
    const [budget] = await budgetStatus(db, tenantId);
    expect(budget).toMatchObject({ reserved_nanousd: 5_000_000n, presumed_nanousd: 0n, spent_nanousd: 0n });
  });
});
