// The work transaction of a run: the tenant's own statements and the end of the run, committed together or not at all.
import type pg from "pg";
import type { z } from "zod";
import { clean, type Db, knownError, ticketFor } from "../db.ts";
import { AppError } from "../errors.ts";
import { COMPLETE, type RunAttempt } from "../jobs.ts";
import type { RunClient } from "../tasks.ts";

/** How long the transaction may be idle, and how long a statement waits for a lock. */
const IDLE_MS = 10_000;
const LOCK_MS = 3_000;
/** What the transaction may take beyond the time of the run, where the server limits that. */
const LATE_MS = 1_000;
/** How long one statement of the end may take, and then the whole end, before its connection is destroyed. */
const END_STATEMENT_MS = 15_000;
const END_MS = 20_000;

/** The attempt whose work it is. */
export type Working = RunAttempt & { readonly signal: AbortSignal; deadline(): number };

type Result<R> = { rows: R[]; rowCount: number | null; command: string };

/** The moment at which the transaction began: a task that ended it and began another one is found out by it. */
type Session = { client: pg.PoolClient; beganAt: string; statementMs: number };

type Returned = { began_at: string; now_is: string; login: string };

/** What the protocol does with the transaction. The task has `client` alone, which leads to nothing else. */
export class WorkTransaction {
  readonly client: RunClient;
  readonly #db: Db;
  readonly #run: Working;
  readonly #gone = Promise.withResolvers<never>();
  #opening: Promise<Session> | undefined;
  #connection: pg.PoolClient | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #isBegun = false;
  #isBusy = false;
  #isOver = false;
  /** Why no further statement can count. */
  #broken: unknown;
  /** The error that the transaction stands in, until the task goes back to a savepoint. */
  #failed: unknown;

  /** Takes no connection before the first statement. */
  constructor(db: Db, run: Working) {
    this.#db = db;
    this.#run = run;
    this.#gone.promise.catch(() => {}); // awaited only in races, which may be over
    this.client = this.#clientOfTask();
  }

  /** Whether the task has used it. */
  get isOpen(): boolean {
    return this.#opening !== undefined;
  }

  /**
   * Completes the run and commits. Throws what the database refused, and `job_transaction_lost` when the task has ended
   * the transaction: then nothing of it was committed here.
   */
  async complete(result: unknown): Promise<void> {
    this.#isOver = true;
    const late = setTimeout(() => this.#destroy(new AppError("job_timeout")), END_MS);
    try {
      await this.#queue;
      this.#run.signal.removeEventListener("abort", this.#onAbort);
      if ((this.#broken ?? this.#failed) !== undefined) throw this.#broken ?? this.#failed;
      await Promise.race([this.#end(await this.#opening!, result), this.#gone.promise]);
    } catch (error) {
      this.#destroy(error);
      throw knownError(this.#db, error);
    } finally {
      clearTimeout(late);
    }
    const client = this.#letGo();
    if (client !== undefined) void clean(client);
  }

  /** Destroys the connection, whatever it is doing. Harmless when there is none. */
  abandon(): void {
    this.#isOver = true;
    this.#destroy(new AppError("job_ended"));
  }

  #clientOfTask(): RunClient {
    const query: RunClient["query"] = (text, values = []) =>
      this.#statement(async ({ client }) => {
        this.#refuseControl(text);
        const { rows, rowCount } = await ask(client, text, values);
        return { rows: rows as never[], rowCount: rowCount ?? 0 };
      });
    const call: RunClient["call"] = (text, values, row) =>
      this.#statement((session) => {
        this.#refuseControl(text);
        return this.#callAsLogin(session, text, values, row);
      });
    return Object.freeze(Object.assign(Object.create(null), { query, call }));
  }

  /** One statement, after those that were asked before it. */
  #statement<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const asked = this.#queue.then(async () => {
      this.#refuseOver();
      this.#isBusy = true;
      try {
        this.#opening ??= this.#open();
        const result = await Promise.race([
          this.#opening.then((session) => this.#limited(session, work)),
          this.#gone.promise,
        ]);
        this.#failed = undefined;
        return result;
      } catch (error) {
        throw await this.#judged(error);
      } finally {
        this.#isBusy = false;
      }
    });
    this.#queue = asked.catch(() => {});
    return asked;
  }

  #refuseOver(): void {
    if (this.#isOver) {
      throw new AppError("job_ended", { hint: "The attempt has ended: await every statement before that." });
    }
    this.#run.signal.throwIfAborted();
    if (this.#broken !== undefined) throw this.#broken;
  }

  async #open(): Promise<Session> {
    const db = this.#db;
    this.#run.signal.addEventListener("abort", this.#onAbort, { once: true });
    const connecting = db.pool.connect();
    const client = await Promise.race([connecting, this.#gone.promise]).catch((error: unknown) => {
      connecting.then((late) => late.release()).catch(() => {}); // nobody waits any more
      throw error;
    });
    this.#connection = client;
    client.on("error", this.#onError);
    const statementMs = milliseconds(this.#run.deadline());
    const beganAt = await begin(client, statementMs);
    const ticket = ticketFor(db, client, this.#run.tenantId, Date.now() + statementMs);
    await ask(client, "select app.enter($1, $2)", [this.#run.tenantId, ticket]);
    await ask(client, AS_TENANT);
    this.#isBegun = true;
    return { client, beganAt, statementMs };
  }

  async #limited<T>(session: Session, work: (session: Session) => Promise<T>): Promise<T> {
    const leftMs = milliseconds(this.#run.deadline());
    // A statement that comes late has less time; to say so for each would double their number.
    if (session.statementMs > leftMs + LATE_MS) {
      await ask(session.client, "select pg_catalog.set_config('statement_timeout', $1, true)", [
        String(leftMs),
      ]);
      session.statementMs = leftMs;
    }
    const result = await work(session);
    if (session.client.getTransactionStatus() !== "T") throw this.#lost();
    return result;
  }

  /** A contract function, in the transaction: the tenant's role may execute none. */
  async #callAsLogin<T>(
    { client }: Session,
    text: string,
    values: readonly unknown[],
    row: z.ZodType<T>,
  ): Promise<T[]> {
    const deadline = Date.now() + this.#run.deadline();
    const ticket = ticketFor(this.#db, client, this.#run.tenantId, deadline);
    await ask(client, "reset role");
    const { rows } = await ask(client, text, [this.#run.tenantId, ticket, ...values]);
    await ask(client, AS_TENANT);
    return rows.map((each) => row.parse(each));
  }

  /** The name of an error; what leaves no transaction to go on in destroys the connection. */
  async #judged(error: unknown): Promise<unknown> {
    const known = knownError(this.#db, error);
    const client = this.#connection;
    if (client !== undefined) await Promise.race([quiet(client), this.#gone.promise]).catch(() => {});
    const status = client?.getTransactionStatus();
    const goesOn = this.#isBegun && this.#connection !== undefined && (status === "E" || status === "T");
    if (!goesOn) this.#destroy(known);
    else if (status === "E") this.#failed = known;
    return known;
  }

  async #end({ client, beganAt }: Session, result: unknown): Promise<void> {
    const [, , returned] = await askMany<Returned>(client, BACK_TO_LOGIN);
    const [now] = returned!.rows;
    if (now?.began_at !== beganAt || now.now_is !== now.login) throw this.#lost();
    const ticket = ticketFor(this.#db, client, this.#run.tenantId, Date.now() + END_STATEMENT_MS);
    await ask(client, COMPLETE.text, [this.#run.tenantId, ticket, ...COMPLETE.values(this.#run, result)]);
    // A transaction that has failed answers a commit with a rollback.
    if ((await ask(client, "commit")).command !== "COMMIT") throw this.#lost();
  }

  /** Only a statement of its own ends a transaction, never a function or a DO inside of one: so none is sent. */
  #refuseControl(text: string): void {
    if (!controlsTransaction(text)) return;
    this.#destroy(this.#lost());
    throw this.#broken;
  }

  #lost(): AppError {
    return new AppError("job_transaction_lost", {
      detail: { run_id: this.#run.runId },
      hint: "The task has ended the work transaction: it may use savepoints, never commit or rollback.",
    });
  }

  readonly #onError = (error: unknown): void => {
    // A statement that is under way is told by its own error.
    if (!this.#isBusy) this.#destroy(knownError(this.#db, error));
  };

  readonly #onAbort = (): void => {
    const { reason } = this.#run.signal;
    // A shutdown lets a result count that is there in time; nothing else does.
    const isShutdown = reason instanceof AppError && reason.code === "shutdown";
    if (this.#isBusy || !isShutdown) this.#destroy(reason);
  };

  #destroy(reason: unknown): void {
    this.#broken ??= reason;
    this.#gone.reject(this.#broken);
    this.#letGo()?.release(true);
  }

  #letGo(): pg.PoolClient | undefined {
    const client = this.#connection;
    this.#connection = undefined;
    this.#run.signal.removeEventListener("abort", this.#onAbort);
    client?.removeListener("error", this.#onError);
    return client;
  }
}

/** Whether a statement begins or ends a transaction; one that goes back to a savepoint does not. */
export function controlsTransaction(text: string): boolean {
  const words = withoutComments(String(text)).trimStart().toLowerCase();
  if (/^rollback\s+((work|transaction)\s+)?to\b/.test(words)) return false;
  return /^(begin|start|commit|end|rollback|abort|prepare\s+transaction)\b/.test(words);
}

/** Block comments nest; nothing before the first word can be a string that holds one. */
function withoutComments(text: string): string {
  let rest = text.replace(/^[\s;]+/, "");
  while (/^(--|\/\*)/.test(rest)) {
    if (rest.startsWith("--")) rest = rest.replace(/^--[^\n\r]*/, "");
    else {
      let depth = 0;
      let at = 0;
      do {
        if (rest.startsWith("/*", at)) depth += 1;
        else if (rest.startsWith("*/", at)) depth -= 1;
        else at -= 1;
        at += 2;
      } while (depth > 0 && at < rest.length);
      rest = rest.slice(at);
    }
    rest = rest.replace(/^[\s;]+/, "");
  }
  return rest.replace(/\/\*[\s\S]*?\*\/|--[^\n\r]*/g, " ");
}

const AS_TENANT = "set local role holdfast_tenant";

const BEGAN_AT = "extract(epoch from pg_catalog.transaction_timestamp())::text as began_at";

/** What the tenant's SQL has set is set no more, and the end has limits of its own. */
const BACK_TO_LOGIN = `reset role;
reset all;
select ${limits(END_STATEMENT_MS, END_MS)}, ${BEGAN_AT}, current_user::text as now_is, session_user::text as login`;

/** Begins, with limits of time: in a statement of its own, for one that is set inside a statement does not limit it. */
async function begin(client: pg.PoolClient, statementMs: number): Promise<string> {
  const [, began] = await askMany<Returned>(
    client,
    `begin; select ${limits(statementMs, statementMs + LATE_MS)}, ${BEGAN_AT}`,
  );
  return began!.rows[0]!.began_at;
}

/** `transaction_timeout` is there from 17 on. */
function limits(statementMs: number, transactionMs: number): string {
  return `pg_catalog.set_config('statement_timeout', '${statementMs}', true),
    pg_catalog.set_config('idle_in_transaction_session_timeout', '${Math.min(statementMs, IDLE_MS)}', true),
    pg_catalog.set_config('lock_timeout', '${LOCK_MS}', true),
    case when pg_catalog.current_setting('transaction_timeout', true) is not null
      then pg_catalog.set_config('transaction_timeout', '${transactionMs}', true) end`;
}

function milliseconds(left: number): number {
  return Math.max(1, Math.ceil(left));
}

/** One statement, never two: the extended protocol takes one alone. */
async function ask(
  client: pg.PoolClient,
  text: string,
  values: readonly unknown[] = [],
): Promise<Result<Record<string, unknown>>> {
  if (typeof text !== "string" || !Array.isArray(values)) {
    throw new AppError("argument_invalid", { hint: "A statement is a text and an array of values." });
  }
  return client.query({ text, values: [...values], queryMode: "extended" } as pg.QueryConfig);
}

/** Several statements of our own in one message; no value of anybody else's is in them. */
async function askMany<R>(client: pg.PoolClient, text: string): Promise<Result<R>[]> {
  return client.query(text) as unknown as Promise<Result<R>[]>;
}

/** After an error, until the server says how the transaction stands: node-pg rejects before that. */
function quiet(client: pg.PoolClient): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  if ((client as unknown as { readyForQuery: boolean }).readyForQuery) return Promise.resolve();
  client.once("drain", resolve);
  client.once("end", resolve);
  return promise;
}
