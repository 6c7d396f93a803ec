// What calls have used that the database could not take: kept in a folder until it can, through the end of the process too.
import { randomUUID } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { z } from "zod";
import { settleTogether } from "../budgets/coalesced.ts";
import type { Settle } from "../budgets.ts";
import type { Db } from "../db.ts";
import { AppError, type ErrorCode } from "../errors.ts";
import { parseJson } from "../json.ts";
import { startOf } from "../postgres/lock.ts";

const EVERY_MS = 5_000;
/** A file of another host is left by its process when nothing has touched it for so long: who lives does so every 5 s. */
const LEFT_MS = 10 * 60_000;
/** How long a stop waits for a replay: one that is cut is made again. */
const STOP_MS = 2_000;

const count = z.number().optional();
const Spooled = z.object({
  tenantId: z.guid(),
  reservationId: z.guid(),
  usage: z.object({
    inputTokens: z.number(),
    outputTokens: z.number(),
    cachedInputTokens: z.number(),
    ...{ cacheWrite5mTokens: count, cacheWrite1hTokens: count, reasoningTokens: count },
    ...{ images: count, toolCalls: count },
    final: z.boolean().optional(),
    source: z.enum(["provider", "estimated"]).optional(),
  }),
  facts: z.object({
    providerRequestId: z.string().nullable().default(null),
    responseModel: z.string().nullable().default(null),
    finishReason: z.string().nullable().default(null),
    simulated: z.boolean().default(false),
  }),
});

/** A settlement that waits: whose, of which hold, what was used. Nothing of what was said is in it. */
type Spooled = z.infer<typeof Spooled>;

/** Settlements on the disk. */
export type Spool = {
  /** Keeps one: when it resolves, it is on the disk. Throws what the disk says. */
  add(tenantId: string, settle: Settle): Promise<void>;
  /** Settles what is kept, by this process and by those that have ended, as far as the database takes it. */
  replay(): Promise<void>;
  /** Ends the replays. What is left waits for the next process on the folder. */
  stop(): Promise<void>;
};

/** What no later try will change. */
const FINAL: readonly ErrorCode[] = ["reservation_closed", "reservation_not_found", "reservation_invalid"];

/** Whether a settlement that failed by this may be taken later. */
export function mayBeSettledLater(error: unknown): boolean {
  return !(error instanceof AppError && FINAL.includes(error.code));
}

/** `<host>.<pid>.<its start>.open`, to which its process adds, or `….<uuid>.taken`, which nobody adds to any more. */
const NAME = /^(?<owner>(?<host>.+)\.(?<pid>\d+)\.(?<start>\d+))(?:\.[\da-f-]{36}\.taken|\.open)$/;
const START = startOf(process.pid) ?? "0";
const OWNER = `${hostname()}.${process.pid}.${START}`;

/**
 * Keeps settlements of `db` in a folder, and replays them at once and every 5 s. To settle twice is to settle once, so it
 * only matters that no line is removed before it was settled: a file is read when it has its last name, and who adds looks
 * whether its file still has its own. Several processes may share the folder.
 */
export function startSpool(given: { directory: string; db: Db; log: Logger; everyMs?: number }): Spool {
  const { directory, db, log } = given;
  const stopping = new AbortController();
  let isUsable = true;
  let waiting = 0;
  let last = Promise.resolve();

  async function replayAll(): Promise<void> {
    try {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const left: unknown[] = [];
      for (const name of await readdir(directory)) left.push(...(await replayFile(name)));
      if (left.length > 0 && left.length !== waiting) {
        log.warn({ settlements: left.length, err: left[0] }, "llm_spool_waits");
      }
      waiting = left.length;
      isUsable = true;
    } catch (error) {
      if (isUsable) log.error({ err: error, directory }, "llm_spool_unusable");
      isUsable = false;
    }
  }

  /** Why what is left in it could not be settled yet. */
  async function replayFile(name: string): Promise<unknown[]> {
    const path = await take(directory, name);
    if (path === undefined) return [];
    const { settles, unreadable } = parse(await readFile(path, "utf8"));
    if (unreadable > 0) log.error({ file: name, lines: unreadable }, "llm_spool_unreadable");
    const faults = await Promise.all(settles.map((each) => settleOne(db, log, each)));
    const left = settles.filter((_, place) => faults[place] !== undefined);
    if (left.length > 0 && left.length === settles.length && unreadable === 0) {
      await touch(path);
    } else {
      if (left.length > 0) await keep(directory, left);
      await rm(path, { force: true });
    }
    return faults.filter((fault) => fault !== undefined);
  }

  /** One at a time: two would settle the same. */
  function replay(): Promise<void> {
    last = last.then(replayAll);
    return last;
  }

  async function goOn(): Promise<void> {
    while (!stopping.signal.aborted) {
      await replay();
      await sleep(given.everyMs ?? EVERY_MS, undefined, { signal: stopping.signal }).catch(() => {});
    }
  }

  const ended = goOn();
  return {
    replay,
    add: (tenantId, { reservationId, usage, facts = {} }) =>
      append(directory, { tenantId, reservationId, usage, facts }),
    stop: () => {
      stopping.abort();
      return Promise.race([ended, sleep(STOP_MS, undefined, { ref: false })]);
    },
  };
}

/** Answers nothing when it is done with, settled or refused for good; else why it must wait. */
async function settleOne(db: Db, log: Logger, spooled: Spooled): Promise<unknown> {
  const { tenantId, reservationId, usage } = spooled;
  const facts = { tenant_id: tenantId, reservation_id: reservationId };
  const tokens = { input_tokens: usage.inputTokens, output_tokens: usage.outputTokens };
  try {
    const { cost_nanousd: cost } = await settleTogether(db, tenantId, reservationId, usage, spooled.facts);
    log.info({ ...facts, ...tokens, cost_nanousd: String(cost), spooled: true }, "llm_settled");
  } catch (error) {
    if (mayBeSettledLater(error)) return error;
    log.error({ ...facts, ...tokens, err: error }, "llm_close_failed");
  }
  return undefined;
}

/** The path of a file that is to be replayed, under a name that is nobody else's; undefined where it is not ours to. */
async function take(directory: string, name: string): Promise<string | undefined> {
  const { owner, host, pid, start } = NAME.exec(name)?.groups ?? {};
  if (owner === undefined) return undefined;
  const path = join(directory, name);
  const isMine = owner === OWNER;
  if (isMine && name.endsWith(".taken")) return path;
  if (!isMine && (host === hostname() ? startOf(Number(pid)) === start : !(await isLeft(path))))
    return undefined;
  const taken = takenPath(directory);
  try {
    await rename(path, taken);
    return taken;
  } catch (error) {
    if (isAbsent(error)) return undefined; // another process was faster
    throw error;
  }
}

async function isLeft(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found !== undefined && Date.now() - found.mtimeMs > LEFT_MS;
}

async function append(directory: string, spooled: Settle & { tenantId: string }): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, `${OWNER}.open`);
  while (!(await written(path, "a", lineOf(spooled))));
  await syncDirectory(directory);
}

/** What is left of a file, in a file of its own. */
async function keep(directory: string, left: Spooled[]): Promise<void> {
  await written(takenPath(directory), "wx", left.map(lineOf).join(""));
  await syncDirectory(directory);
}

/** That it is still ours is told to the other hosts, one of which may have taken it all the same. */
async function touch(path: string): Promise<void> {
  const now = Date.now() / 1000;
  await utimes(path, now, now).catch((error: unknown) => {
    if (!isAbsent(error)) throw error;
  });
}

function takenPath(directory: string): string {
  return join(directory, `${OWNER}.${randomUUID()}.taken`);
}

/** A line that a full disk has cut must not spoil the next one. */
function lineOf(spooled: Settle & { tenantId: string }): string {
  return `\n${JSON.stringify(spooled)}\n`;
}

/** Writes to the disk. Answers whether the file still has its name: one that was taken meanwhile may have been read. */
async function written(path: string, flags: "a" | "wx", text: string): Promise<boolean> {
  const file = await open(path, flags, 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
    const { ino } = await file.stat();
    const named = await stat(path).catch(() => undefined);
    return named?.ino === ino;
  } finally {
    await file.close();
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const folder = await open(directory, "r");
  await folder.sync().finally(() => folder.close());
}

function parse(text: string): { settles: Spooled[]; unreadable: number } {
  const lines = text.split("\n").filter((line) => line !== "");
  const settles = lines.flatMap((line) => Spooled.safeParse(parseJson(line)).data ?? []);
  return { settles, unreadable: lines.length - settles.length };
}

function isAbsent(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}
