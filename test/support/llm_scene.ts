// A tenant with a budget, and a provider on loopback that answers as a test tells it: what the model's road
// runs on.
import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import pino from "pino";
import { expect } from "vitest";
import type { Usage } from "../../src/budgets.ts";
import { createPool, type Db } from "../../src/db.ts";
import { type Attempt, type Llm, providerOf } from "../../src/llm.ts";
import { testDatabase } from "./database.ts";
import { runsOf } from "./runs.ts";

/** What a request brought; `body` is its text. */
export type Hit = { url: string; headers: IncomingMessage["headers"]; body: string };

/** Answers one hit; `nth` counts from 1. */
export type Answer = (response: ServerResponse, hit: Hit, nth: number) => unknown;

export type TestProvider = { baseUrl: string; host: string; hits: Hit[]; close(): Promise<void> };

/** Starts one on a free port of 127.0.0.1, or on the one that is given. */
export async function startProvider(answer: Answer, port = 0): Promise<TestProvider> {
  const hits: Hit[] = [];
  const listener: RequestListener = async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const hit = { url: request.url ?? "", headers: request.headers, body };
    await answer(response, hit, hits.push(hit));
  };
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const close = () => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { baseUrl: `http://${host}/v1`, host, hits, close };
}

export type Tokens = {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens?: number;
  prompt_tokens_details?: { cached_tokens: number };
};

/** A chat completion; `null` leaves usage out. */
export function completion(
  content: string | null,
  usage: Tokens | null = { prompt_tokens: 100, completion_tokens: 20 },
  choice: object = {},
): object {
  return {
    id: "chatcmpl-1",
    object: "chat.completion",
    created: 1_700_000_000,
    model: "small-2026-01-01",
    choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop", ...choice }],
    ...(usage === null ? {} : { usage }),
  };
}

/** Answers with a status and a JSON body. */
export function json(
  response: ServerResponse,
  body: unknown,
  status = 200,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
}

/** The database of this test file. */
export const database = testDatabase();
/** A run whose calls a test makes. */
export const addRun = (tenantId: string): Promise<string> => runsOf(database).add(tenantId);
/** What is open; `endScenes` closes it. */
export const providers: TestProvider[] = [];

/** Rows of a statement that sees everything. */
// biome-ignore lint/suspicious/noExplicitAny: what a test looks at, it names.
export async function sql(text: string, values: unknown[] = []): Promise<any[]> {
  return (await database.superuser.query(text, values)).rows;
}

/** The worker's database once more, with a pool that a test may end. */
export function anotherDb(): Db {
  const pool = createPool({ connectionString: database.url("holdfast_worker"), application_name: "test" });
  return { pool, ticketKey: database.worker.ticketKey };
}

/** To be run after each test: no provider is left, and the ledger is sound. */
export async function endScenes(): Promise<void> {
  await Promise.all(providers.splice(0).map((provider) => provider.close()));
  expect(await sql("select * from app.llm_check()")).toEqual([]);
}

export type Line = Record<string, unknown> & { msg: string };

/**
 * `lines` is what was logged, `observed`, `checks` and `counted` what was measured, the rest what the ledger
 * says.
 */
export type Scene = {
  llm: Llm;
  tenantId: string;
  attempt: Attempt;
  provider: TestProvider;
  lines: Line[];
  observed: { status: string; seconds: number; usage: Usage | undefined }[];
  checks: number[];
  counted: { overHolds: number };
  holds(): Promise<{ status: string; reason: string | null; attempt: number; bound: number; max: number }[]>;
  budget(): Promise<{ spent: number; reserved: number; presumed: number }>;
};

const PRICE = { input: 1, cached_input: 0.1, output: 2 };

/** A tenant with a budget, a provider with a price (in USD per million), and an attempt that calls. */
export async function scene(
  answer: Answer,
  options: {
    limit?: number | null;
    price?: Record<string, number>;
    llm?: Partial<Llm>;
    attempt?: Partial<Attempt>;
  } = {},
): Promise<Scene> {
  const provider = await startProvider(answer);
  providers.push(provider);
  // A name of its own: a port comes back, and with it the prices of another scene.
  const name = randomUUID();
  for (const [unit, rate] of Object.entries(options.price ?? PRICE)) await addPrice(name, unit, rate);
  const tenantId = await addTenant(options.limit === undefined ? 1_000_000_000 : options.limit);

  const lines: Line[] = [];
  const observed: Scene["observed"] = [];
  const checks: number[] = [];
  const counted = { overHolds: 0 };
  const llm: Llm = {
    db: database.worker,
    log: pino({ level: "info" }, { write: (line: string) => lines.push(JSON.parse(line)) }),
    provider: {
      ...providerOf({ baseUrl: provider.baseUrl, apiKey: "sk-secret", model: "small" }),
      name,
    },
    deadlineMs: 5_000,
    retryDelaysMs: [5, 10],
    observe: {
      budgetCheckSeconds: (seconds) => checks.push(seconds),
      call: (status, seconds, usage) => observed.push({ status, seconds, usage }),
      overHold: () => {
        counted.overHolds += 1;
      },
    },
    ...options.llm,
  };
  const signal = new AbortController().signal;
  const attempt = {
    runId: await addRun(tenantId),
    attempt: 1,
    deadlineAt: Date.now() + 60_000,
    signal,
    ...options.attempt,
  };
  return { llm, tenantId, attempt, provider, lines, observed, checks, counted, ...ledger(tenantId) };
}

function ledger(tenantId: string): Pick<Scene, "holds" | "budget"> {
  return {
    holds: () =>
      sql(
        `select status, reason, attempt, input_tokens_bound::int as bound, max_output_tokens::int as max
         from app.llm_reservations where tenant_id = $1 order by id`,
        [tenantId],
      ),
    budget: async () => {
      const [row] = await sql(
        `select coalesce(sum(spent_nanousd), 0)::int as spent, coalesce(sum(reserved_nanousd), 0)::int as reserved,
           coalesce(sum(presumed_nanousd), 0)::int as presumed
         from app.llm_budget_periods where tenant_id = $1`,
        [tenantId],
      );
      return row;
    },
  };
}

/** `limit` in nano-USD; null leaves the tenant without a budget. */
async function addTenant(limit: number | null): Promise<string> {
  const { tenantId } = await database.addTenant({ limitUsd: ((limit ?? 0) / 1e9).toFixed(9) });
  if (limit === null) await sql("delete from app.llm_budgets where tenant_id = $1", [tenantId]);
  return tenantId;
}

function addPrice(provider: string, unit: string, rate: number): Promise<unknown> {
  return sql(
    `insert into app.llm_prices (provider, model, unit, usd_per_million, valid, source)
     values ($1, 'small', $2, $3, tstzrange('2026-01-01', null), 'test')`,
    [provider, unit, rate],
  );
}
