// What isolation costs inside PL/pgSQL, timed by the server: a table in a statement, an UPDATE, and entering.
import type pg from "pg";
import { enter, ticketFor } from "./queries.ts";
import { type Batch, compared, type Figure, measure, median, type Side, timed } from "./rounds.ts";
import { type Size, tenantOf } from "./scene.ts";

/** A cost in µs: the difference of the medians of two sides. */
export type InsideResult = {
  what: string;
  rounds: number;
  without_us: number;
  with_us: number;
  cost_us: Figure;
  target_us: number | null;
};

const TENANT = 1;

/** All of them, with the tenant named in each statement, as contract functions do. */
export async function measureInside(
  client: pg.Client,
  size: Size,
  say: (what: string) => void,
): Promise<InsideResult[]> {
  const rows = Math.floor(size.rows / size.tenants);
  const results: InsideResult[] = [];
  for (const [what, target, without, withIt, passes] of [
    // Few passes, so that most rounds end before another program takes the processor.
    ["a table in a SELECT", 7, "select_plain", "select_isolated", Math.min(50, rows)],
    ["an UPDATE", 14, "update_plain", "update_isolated", Math.min(25, rows)],
    ["app.enter", 30, "leave", "leave_and_enter", 20],
  ] as const) {
    say(`${what}, inside PL/pgSQL`);
    const batch = transaction(client);
    const sides = { one: loop(client, without, passes), other: loop(client, withIt, passes) };
    results.push(difference(what, target, await measure(sides, { seconds: 5, rounds: 5_000 }, batch)));
  }
  for (const prepared of [true, false]) {
    const what = `app.enter, in the round trip of a call, ${prepared ? "prepared" : "not prepared"}`;
    say(what);
    const sides = {
      one: call(client, size, "call_bare", prepared),
      other: call(client, size, "call_entered", prepared),
    };
    results.push(difference(what, null, await measure(sides, { seconds: 3, rounds: 10_000 })));
  }
  return results;
}

function difference(
  what: string,
  target: number | null,
  { one, other }: { one: number[]; other: number[] },
): InsideResult {
  return {
    what,
    rounds: one.length,
    without_us: median(one),
    with_us: median(other),
    cost_us: compared(other, one, (slower, faster) => slower - faster),
    target_us: target,
  };
}

/** A few rounds in one entered transaction, which leaves nothing behind. */
function transaction(client: pg.Client): Batch {
  return {
    rounds: 10,
    begin: async () => {
      await client.query("begin");
      await enter(client, TENANT);
    },
    end: async () => {
      await client.query("rollback");
    },
  };
}

/** A function of the scene that times its own passes. */
function loop(client: pg.Client, name: string, passes: number): Side {
  return async () => {
    await client.query("savepoint before");
    const { rows } = await client.query<{ time: number }>({
      name,
      text: `select bench.${name}($1, $2, $3) as time`,
      values: [tenantOf(TENANT), ticketFor(client, TENANT), passes],
    });
    await client.query("rollback to before");
    return rows[0]!.time;
  };
}

/** A call as the shell makes one: a statement, and so a transaction, of its own. */
function call(client: pg.Client, size: Size, name: string, prepared: boolean): Side {
  const text = `select bench.${name}($1, $2)`;
  return (round) => {
    const tenant = round % size.tenants;
    const values = [tenantOf(tenant), ticketFor(client, tenant)];
    return timed(() => client.query(prepared ? { name, text, values } : { text, values }));
  };
}
