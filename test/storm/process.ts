// A process of the storm: clients that reserve, settle and give back as the shell does. What each was told is in the file
// of the process before it goes on, a line each; nothing is ever sent to a model.
import { closeSync, openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { reserveTogether, settleTogether } from "../../src/budgets/coalesced.ts";
import { extend, type Hold, presume, release, type Usage } from "../../src/budgets.ts";
import { createPool } from "../../src/db.ts";
import { AppError } from "../../src/errors.ts";
import { TEST_TICKET_KEY } from "../support/constants.ts";
import { type Call, callOf } from "./calls.ts";
import { isAway, nameOf } from "./errors.ts";

/** What a process is given; `from` has the last call of each client of the process that it takes over from. */
export type ProcessOptions = {
  url: string;
  file: string;
  name: string;
  seed: number;
  clients: number;
  tenants: string[];
  from: number[];
};

const PAUSE_MS = 50;
/** Refusals that are answers. */
const ANSWERS = ["budget_exceeded", "reservation_closed", "idempotency_conflict"];

const given: ProcessOptions = JSON.parse(process.env["STORM_PROCESS"] ?? "");
const pool = createPool({ connectionString: given.url, application_name: "storm_process", max: 12 });
const db = { pool, ticketKey: TEST_TICKET_KEY };
const told = openSync(given.file, "a");
let isOver = false;

process.once("SIGTERM", () => {
  isOver = true;
});
const onDisconnect = () => process.exit(3); // whoever started it is gone
process.on("disconnect", onDisconnect);
process.channel?.unref();
process.send?.("ready");

await Promise.all(Array.from({ length: given.clients }, (_, at) => client(at)));
await pool.end();
closeSync(told);
process.off("disconnect", onDisconnect);
process.disconnect?.();

async function client(at: number): Promise<void> {
  for (let n = given.from[at] ?? 0; !isOver; n += 1) {
    const key = `${given.name}.${at}.${n}`;
    say("asks", key);
    await callOnce(key, callOf(given.seed, key, given.tenants));
  }
}

async function callOnce(key: string, call: Call): Promise<void> {
  const asks = [reserved(key, call)];
  if (call.asksTwice === "together") asks.push(reserved(key, call));
  const holds = await Promise.all(asks);
  const hold = holds.find((each) => each !== undefined);
  if (hold === undefined) return void (await sleep(10 + call.thinkMs));
  if (call.conflicts) await conflict(key, call);
  // A process that was killed may have come further with it.
  if (hold.status === "RESERVED") await goOn(key, call, hold);
  if (call.asksTwice === "after") await reserved(key, call);
}

async function reserved(key: string, { tenantId, ask }: Call): Promise<Hold | undefined> {
  const { answer: hold, ms } = await answered("reserve", () => reserveTogether(db, tenantId, ask));
  if (hold === undefined) return undefined;
  const took = ms.toFixed(2);
  if (hold instanceof AppError) {
    say("refused", key, String(hold.detail["reason"] ?? hold.code), took);
    return undefined;
  }
  const { id, estimated_cost_nanousd, replayed, max_output_tokens } = hold;
  say("held", key, tenantId, id, estimated_cost_nanousd, replayed ? "again" : "new", took);
  const least = ask.minOutputTokens ?? ask.maxOutputTokens;
  if (max_output_tokens > ask.maxOutputTokens || max_output_tokens < least)
    say(
      "failed",
      "reserve",
      `granted ${max_output_tokens} of ${least} to ${ask.maxOutputTokens} output tokens`,
    );
  if (max_output_tokens < ask.maxOutputTokens) say("clamped", key);
  return hold;
}

async function conflict(key: string, { tenantId, ask }: Call): Promise<void> {
  const other = { ...ask, inputTokensBound: ask.inputTokensBound + 1 };
  const { answer } = await answered("conflict", () => reserveTogether(db, tenantId, other));
  if (answer === undefined) return;
  const name = answer instanceof AppError ? answer.code : "held";
  if (name !== "idempotency_conflict") say("failed", "conflict", `another request with a known key: ${name}`);
  say("conflicts", key);
}

async function goOn(key: string, call: Call, hold: Hold): Promise<void> {
  const { tenantId, usage, ending } = call;
  await sleep(call.thinkMs);
  switch (ending) {
    case "abandon":
      return say("abandons", key, hold.id);
    case "release":
      return closed(key, "released", hold, () => release(db, tenantId, hold.id, "never sent"));
    case "presume":
      return closed(key, "presumed", hold, () => presume(db, tenantId, hold.id, "no answer"));
    case "presumed":
      await closed(key, "presumed", hold, () => presume(db, tenantId, hold.id, "no answer"));
      break;
    case "extend":
      await closed(key, "extended", hold, () => extend(db, tenantId, hold.id, 90_000));
      break;
    case "race":
      return race(key, call, hold);
    case "late":
      await sleep(Math.max(0, hold.expires_at.getTime() - Date.now()) + call.thinkMs * 40);
      break;
    case "parts":
      for (const share of [0.3, 0.6]) await settled(key, call, hold, part(usage, share));
      break;
    case "estimated":
      await settled(key, call, hold, { ...usage, source: "estimated" });
      say("adjusts", key, hold.id);
      return settled(key, call, hold, { ...usage, outputTokens: usage.outputTokens + 7 });
    default:
  }
  const settles = [settled(key, call, hold, usage)];
  if (call.settlesTwice) settles.push(settled(key, call, hold, usage));
  await Promise.all(settles);
}

/** Settled and given back at once: either wins, and the other is refused. */
async function race(key: string, call: Call, hold: Hold): Promise<void> {
  await Promise.all([
    settled(key, call, hold, call.usage),
    closed(key, "released", hold, () => release(db, call.tenantId, hold.id, "never sent")),
  ]);
}

function part(usage: Usage, share: number): Usage {
  return { ...usage, outputTokens: Math.floor(usage.outputTokens * share), final: false };
}

async function settled(key: string, { tenantId }: Call, hold: Hold, usage: Usage): Promise<void> {
  const { answer } = await answered("settle", () => settleTogether(db, tenantId, hold.id, usage));
  if (answer === undefined) return;
  if (answer instanceof AppError) say("closed", key, hold.id, answer.code);
  else say(usage.final === false ? "part" : "settled", key, hold.id, answer.cost_nanousd, answer.status);
}

async function closed(key: string, word: string, hold: Hold, end: () => Promise<unknown>): Promise<void> {
  const { answer } = await answered(word, end);
  if (answer === undefined) return;
  if (answer instanceof AppError) say("closed", key, hold.id, answer.code);
  else say(word, key, hold.id);
}

/**
 * The answer, and the ms of the last try: a refusal by name is one, after a lost connection or a budget that is busy the
 * same is asked again. Undefined for an error that is not to be; it is told of.
 */
async function answered<T>(
  where: string,
  ask: () => Promise<T>,
): Promise<{ answer: T | AppError | undefined; ms: number }> {
  for (;;) {
    const from = performance.now();
    const took = () => performance.now() - from;
    try {
      return { answer: await ask(), ms: took() };
    } catch (error) {
      if (error instanceof AppError && ANSWERS.includes(error.code)) return { answer: error, ms: took() };
      const isBusy = error instanceof AppError && error.code === "budget_busy";
      if (isBusy) say("busy", where);
      else if (isAway(error)) say("away", where, Date.now(), nameOf(error));
      else say("failed", where, nameOf(error));
      if (isOver || !(isBusy || isAway(error))) return { answer: undefined, ms: took() };
      await sleep(PAUSE_MS);
    }
  }
}

function say(...words: unknown[]): void {
  writeSync(told, `${words.join(" ").replaceAll("\n", " ")}\n`);
}
