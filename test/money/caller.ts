// A process of the shell that makes paid calls, for the test that kills it: what it was answered is on its stdout, a line
// each, written before it goes on. Nothing is ever sent.
import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { reserveTogether, settleTogether } from "../../src/budgets/coalesced.ts";
import { release } from "../../src/budgets.ts";
import { createPool } from "../../src/db.ts";
import { AppError } from "../../src/errors.ts";
import { hashOf, randomFrom } from "../../src/sample/random.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";

const { url, tenants, name, seed, from } = JSON.parse(process.env["TEST_CALLER"] ?? "");
const pool = createPool({ connectionString: url, application_name: "test_caller", max: 6 });
const db = { pool, ticketKey: TEST_TICKET_KEY };
const say = (...words: unknown[]): void => {
  writeSync(1, `${words.join(" ")}\n`);
};

/** Until it is answered: the same again has no other effect. A refusal by name is an answer. */
async function answered<T>(call: () => Promise<T>): Promise<T | AppError> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error instanceof AppError && error.code !== "budget_busy") return error;
      await sleep(20);
    }
  }
}

async function callOnce(key: string, tenantId: string): Promise<void> {
  // By the key: a process that asks again does the same as the one that was killed.
  const { uniform } = randomFrom(seed ^ hashOf(key));
  const ask = {
    idempotencyKey: key,
    provider: "offline",
    model: "offline-analyst",
    inputTokensBound: 400,
    maxOutputTokens: 100,
  };
  const hold = await answered(() => reserveTogether(db, tenantId, ask));
  if (hold instanceof AppError) {
    say("refused", key, hold.code);
    return void (await sleep(20));
  }
  say("held", key, tenantId, hold.id, hold.estimated_cost_nanousd, hold.replayed ? "again" : "new");
  if (hold.status !== "RESERVED") return;
  await sleep(uniform() * 15);

  if (uniform() < 0.2) {
    const released = await answered(() => release(db, tenantId, hold.id, "never sent"));
    return say(released instanceof AppError ? released.code : "released", key, tenantId, hold.id);
  }
  const usage = { inputTokens: Math.floor(uniform() * 400), outputTokens: 50, cachedInputTokens: 0 };
  if (uniform() < 0.3) {
    const part = { ...usage, outputTokens: 10, final: false };
    await answered(() => settleTogether(db, tenantId, hold.id, part));
  }
  const settled = await answered(() => settleTogether(db, tenantId, hold.id, usage));
  if (settled instanceof AppError) say(settled.code, key, tenantId, hold.id);
  else say("settled", key, tenantId, hold.id, settled.cost_nanousd);
}

async function loop(at: number): Promise<never> {
  for (let n = from[at] ?? 0; ; n += 1) {
    const key = `${name}.${at}.${n}`;
    say("asks", key);
    await callOnce(key, tenants[n % tenants.length]);
  }
}

await Promise.all(Array.from({ length: 6 }, (_, at) => loop(at)));
