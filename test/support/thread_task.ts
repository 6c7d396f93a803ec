// A task for a thread of its own; its input says what it does.
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import type { Run } from "../../src/tasks.ts";

const Row = z.object({ n: z.int() });

const DEEDS: Record<string, (run: Run) => Promise<unknown>> = {
  async count({ input, tenantId, attempt, slot, deadline, progress, log, client, call, heartbeat }) {
    const { rows } = await client.query("select $1::int as n, current_user as role", [input["n"]]);
    const [called] = await call("select $3::int as n where $1::text <> $2", [8], Row);
    const [worked] = await client.call("select $3::int as n where $1::text <> $2", [9], Row);
    progress(0.5, "half");
    log.info({ deed: "count" }, "thread_said");
    log.child({ more: 1 }).warn("thread_warned");
    const lease = await heartbeat();
    return {
      rows,
      called,
      worked,
      tenantId,
      attempt,
      slot,
      left: deadline() > 0,
      lease: lease instanceof Date,
    };
  },
  async spin() {
    for (;;);
  },
  async heed({ signal }) {
    return sleep(60_000, undefined, { signal }).catch(() => {
      throw signal.reason;
    });
  },
  async fail({ input }) {
    throw Object.assign(new Error("no"), input);
  },
  async refuse({ client }) {
    await client.query("select 1 / 0");
  },
  async wait_for_sql({ client }) {
    await client.query("select pg_sleep(60)");
  },
  async exit() {
    process.exit(0);
  },
  async fill() {
    const all: unknown[] = [];
    for (;;) all.push(new Array(1_000_000).fill(all.length));
  },
  async environment() {
    return Object.keys(process.env);
  },
  async unclonable() {
    return () => {};
  },
};

export default async function thread(run: Run): Promise<unknown> {
  return DEEDS[String(run.input["deed"])]!(run);
}
