// The environment, parsed once at start. Everything that is wrong is said in one message.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { unescape as decodeQuietly } from "node:querystring";
import { z } from "zod";
import { AppError } from "./errors.ts";
import { localSecrets } from "./secrets.ts";
import type { TicketKey } from "./tickets.ts";

/** What a process runs: everything (`npm start`), the HTTP endpoint, the worker, an import, or the migration. */
export type Part = "all" | "api" | "worker" | "import" | "migrate";

type Settings = {
  part: Part;
  environment: "development" | "staging" | "production";
  logLevel: "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent";
  /** Absolute: the embedded server's data and the secrets of development. */
  directory: string;
  /** Undefined: the embedded server, which listens on `postgresPort`. */
  databaseUrl: string | undefined;
  postgresPort: number;
  databasePoolSize: number;
  http: { host: string; port: number };
  /** Where a worker serves its probes and metrics. */
  metrics: { host: string; port: number };
  ticketKey: TicketKey;
  jwtSecretKey: Buffer | undefined;
  llm: LlmSettings;
  /** How long a statement waits for a budget that others keep locked. */
  budgetLockTimeoutMs: number;
  /** Absolute: where usage is kept that the database could not take. */
  spoolDirectory: string;
  /** Where the work transactions of tasks go; undefined: a worker has none, and `npm start` knows its own. */
  tasksDatabaseUrl: string | undefined;
  workerConcurrency: number;
  leakedHandlersMax: number;
  deadlockRetries: number;
};

/** An OpenAI-compatible API, with a model if it has an address; a server of one's own may want no key. */
export type LlmSettings = {
  /** Undefined: the offline analyst, in this process. */
  baseUrl: string | undefined;
  apiKey: string | undefined;
  model: string | undefined;
  /** For one call, answer included. */
  deadlineMs: number;
};

type Needs = {
  all: { jwtSecretKey: Buffer };
  api: { databaseUrl: string; jwtSecretKey: Buffer };
  worker: { databaseUrl: string; tasksDatabaseUrl: string };
  import: { databaseUrl: string };
  migrate: { databaseUrl: string };
};

/** The settings of one part, with what that part cannot do without. */
export type Config<P extends Part = Part> = Settings & Needs[P];

type Environ = Record<string, string | undefined>;
type Fault = { variable: string; wrong: string; set: string };

const DIRECTORY = resolve(import.meta.dirname, "../.holdfast");
const RANDOM_KEY = "32 random bytes in base64, as `openssl rand -base64 32` prints them";
const PARTS = "npm run db:migrate, npm run api, npm run worker";
const PLACEHOLDER =
  /change.?me|placeholder|example|your[-_ ]|^<.*>$|^(x+|password|secret|postgres|holdfast)$/i;

const PostgresUrl = z
  .string()
  .refine((text) => /^postgres(ql)?:$/.test(URL.parse(text)?.protocol ?? ""), "is not a postgres:// address");
const Port = z.coerce.number().int().max(65_535);
const Host = z.string().regex(/^[\w.:-]+$/);
const Key = z
  .base64()
  .refine(isRandom, "is not random bytes")
  .transform((text) => Buffer.from(text, "base64"));
const Text = z.string().refine((text) => !PLACEHOLDER.test(text), "is a placeholder");

/** Each variable: what it may hold, and in words what to set. */
const VARIABLES = z.object({
  ENVIRONMENT: z
    .enum(["development", "staging", "production"])
    .describe("development, staging or production"),
  LOG_LEVEL: z
    .enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"])
    .default("info")
    .describe("trace, debug, info, warn, error, fatal or silent"),
  HOLDFAST_DIR: z.string().default(DIRECTORY).describe("a folder"),
  DATABASE_URL: PostgresUrl.optional().describe(
    "postgres://user:password@host:5432/database, with the login of this part",
  ),
  DATABASE_POOL_SIZE: z.coerce.number().int().min(1).max(200).default(10).describe("connections, 1 to 200"),
  POSTGRES_PORT: Port.min(1).default(8403).describe("a port, 1 to 65535"),
  HTTP_HOST: Host.default("127.0.0.1").describe("an address to listen on"),
  HTTP_PORT: Port.min(0).default(8402).describe("a port, 0 to 65535; 0 takes a free one"),
  METRICS_HOST: Host.default("127.0.0.1").describe("an address to listen on"),
  METRICS_PORT: Port.min(0).default(8404).describe("a port, 0 to 65535; 0 takes a free one"),
  TICKET_KEY: Key.optional().describe(RANDOM_KEY),
  TICKET_KEY_ID: z.coerce
    .number()
    .int()
    .min(1)
    .max(999_999_999)
    .default(1)
    .describe("a number, 1 to 999999999"),
  JWT_SECRET_KEY: Key.optional().describe(RANDOM_KEY),
  LLM_BASE_URL: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe("the http(s) address of an OpenAI-compatible API, such as http://127.0.0.1:11434/v1"),
  LLM_API_KEY: Text.regex(/^[\x21-\x7e]+$/)
    .optional()
    .describe("the provider's key, in one line without spaces"),
  LLM_MODEL: Text.optional().describe("the provider's name of the model"),
  LLM_DEADLINE_MS: z.coerce
    .number()
    .int()
    .min(100)
    .max(600_000)
    .default(30_000)
    .describe("ms, 100 to 600000"),
  BUDGET_LOCK_TIMEOUT: z.coerce.number().int().min(1).max(60_000).default(3_000).describe("ms, 1 to 60000"),
  SPOOL_DIR: z.string().optional().describe("a folder"),
  TASKS_DATABASE_URL: PostgresUrl.optional().describe(
    "postgres://user:password@host:5432/database, with the login holdfast_service",
  ),
  WORKER_CONCURRENCY: z.coerce.number().int().min(1).max(64).default(4).describe("runs at a time, 1 to 64"),
  LEAKED_HANDLERS_MAX: z.coerce.number().int().min(1).max(1_000).default(5).describe("handlers, 1 to 1000"),
  SCHEDULER_DEADLOCK_RETRIES: z.coerce.number().int().min(0).max(5).default(3).describe("tries, 0 to 5"),
});

type Name = keyof typeof VARIABLES.shape;
type Given = Partial<Record<Name, string | undefined>>;

const NAMES = Object.keys(VARIABLES.shape) as Name[];
const SECRETS: readonly Name[] = [
  "DATABASE_URL",
  "TASKS_DATABASE_URL",
  "TICKET_KEY",
  "JWT_SECRET_KEY",
  "LLM_API_KEY",
];
const NEEDED: Record<Part, readonly Name[]> = {
  all: ["TICKET_KEY", "JWT_SECRET_KEY"],
  api: ["DATABASE_URL", "TICKET_KEY", "JWT_SECRET_KEY"],
  worker: ["DATABASE_URL", "TASKS_DATABASE_URL", "TICKET_KEY"],
  import: ["DATABASE_URL", "TICKET_KEY"],
  migrate: ["DATABASE_URL", "TICKET_KEY"],
};

/**
 * Reads the settings of a part. A variable that is empty counts as absent; a secret may come from the file
 * that `<NAME>_FILE` names. In development, keys that are absent come from the local secrets, made at the
 * first start. Throws one `config_invalid` that lists every fault: the variable, what is wrong, and what to
 * set; never a secret.
 */
export function readConfig<P extends Part>(part: P, env: Environ = process.env): Config<P> {
  const faults: Fault[] = [];
  const given = readGiven(env, faults);
  if (part === "all" && given.DATABASE_URL === undefined) given.ENVIRONMENT ??= "development";
  if (given.ENVIRONMENT === "development") addLocalKeys(given, faults);

  const { data: values, error } = VARIABLES.safeParse(given);
  faults.push(...(error?.issues ?? []).map((issue) => faultOf(issue, given)), ...contradictions(part, given));
  for (const name of NEEDED[part]) if (given[name] === undefined) faults.push(fault(name, "is missing"));
  if (values?.TICKET_KEY === undefined || faults.length > 0) throw refusal(faults);
  return settings(part, values, values.TICKET_KEY) as Config<P>; // NEEDED keeps the promise of Needs
}

function settings(part: Part, values: z.infer<typeof VARIABLES>, ticketSecret: Buffer): Settings {
  return {
    part,
    environment: values.ENVIRONMENT,
    logLevel: values.LOG_LEVEL,
    directory: resolve(values.HOLDFAST_DIR),
    databaseUrl: values.DATABASE_URL,
    postgresPort: values.POSTGRES_PORT,
    databasePoolSize: values.DATABASE_POOL_SIZE,
    http: { host: values.HTTP_HOST, port: values.HTTP_PORT },
    metrics: { host: values.METRICS_HOST, port: values.METRICS_PORT },
    ticketKey: { kid: values.TICKET_KEY_ID, secret: ticketSecret },
    jwtSecretKey: values.JWT_SECRET_KEY,
    llm: {
      baseUrl: values.LLM_BASE_URL,
      apiKey: values.LLM_API_KEY,
      model: values.LLM_MODEL,
      deadlineMs: values.LLM_DEADLINE_MS,
    },
    budgetLockTimeoutMs: values.BUDGET_LOCK_TIMEOUT,
    spoolDirectory: resolve(values.SPOOL_DIR ?? join(values.HOLDFAST_DIR, "spool")),
    tasksDatabaseUrl: values.TASKS_DATABASE_URL,
    workerConcurrency: values.WORKER_CONCURRENCY,
    leakedHandlersMax: values.LEAKED_HANDLERS_MAX,
    deadlockRetries: values.SCHEDULER_DEADLOCK_RETRIES,
  };
}

/** The variables that are ours, the files of secrets read. */
function readGiven(env: Environ, faults: Fault[]): Given {
  const given: Given = {};
  for (const name of NAMES) given[name] = env[name] || undefined;
  for (const name of SECRETS) {
    const path = env[`${name}_FILE`];
    if (!path) continue;
    if (given[name] === undefined) given[name] = readSecret(name, path, faults);
    else faults.push({ variable: name, wrong: `is set, and ${name}_FILE too`, set: "only one of them" });
  }
  return given;
}

function readSecret(name: Name, path: string, faults: Fault[]): string | undefined {
  const refuse = (wrong: string) => {
    faults.push({ variable: `${name}_FILE`, wrong: `names ${path}, which ${wrong}`, set: "a readable file" });
    return undefined;
  };
  try {
    return readFileSync(path, "utf8").replace(/\r?\n$/, "") || refuse("is empty");
  } catch (error) {
    return refuse(`cannot be read (${(error as NodeJS.ErrnoException).code})`);
  }
}

function addLocalKeys(given: Given, faults: Fault[]): void {
  if (given.TICKET_KEY !== undefined && given.JWT_SECRET_KEY !== undefined) return;
  try {
    const local = localSecrets(resolve(given.HOLDFAST_DIR ?? DIRECTORY));
    given.TICKET_KEY ??= local.ticketKey.toString("base64");
    given.JWT_SECRET_KEY ??= local.jwtSecretKey.toString("base64");
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    faults.push({
      variable: "HOLDFAST_DIR",
      wrong: `has no usable secrets: ${error.message.replace(/\.$/, "")}`,
      set: "a private folder",
    });
  }
}

/** What is wrong between variables, each of which may be right alone. */
function contradictions(part: Part, given: Given): Fault[] {
  const faults: Fault[] = [];
  const shared = given.ENVIRONMENT !== undefined && given.ENVIRONMENT !== "development";
  if (part === "all" && shared) {
    const set = `development, or run the parts of it: ${PARTS}`;
    faults.push({ variable: "ENVIRONMENT", wrong: "is not one in which one process runs everything", set });
  }
  for (const name of ["DATABASE_URL", "TASKS_DATABASE_URL"] as const) {
    if (!shared || !PLACEHOLDER.test(passwordIn(given[name]))) continue;
    faults.push(fault(name, "has a placeholder as its password"));
  }
  if (given.TICKET_KEY !== undefined && given.TICKET_KEY === given.JWT_SECRET_KEY) {
    faults.push(fault("JWT_SECRET_KEY", "is the same as TICKET_KEY"));
  }
  if (given.LLM_BASE_URL !== undefined && given.LLM_MODEL === undefined) {
    faults.push(fault("LLM_MODEL", "is missing beside LLM_BASE_URL"));
  }
  for (const name of ["LLM_API_KEY", "LLM_MODEL"] as const) {
    if (given.LLM_BASE_URL !== undefined || given[name] === undefined) continue;
    faults.push(fault("LLM_BASE_URL", `is missing beside ${name}`));
  }
  return faults;
}

function faultOf(issue: z.core.$ZodIssue, given: Given): Fault {
  const name = issue.path[0] as Name;
  const value = given[name];
  if (value === undefined) return fault(name, "is missing");
  if (issue.code === "custom") return fault(name, issue.message);
  // An address may hold a password.
  return fault(name, SECRETS.includes(name) || name === "LLM_BASE_URL" ? "is malformed" : `is "${value}"`);
}

function fault(name: Name, wrong: string): Fault {
  const file = SECRETS.includes(name) ? ` (or put it in the file that ${name}_FILE names)` : "";
  return { variable: name, wrong, set: `${VARIABLES.shape[name].description}${file}` };
}

/**
 * One line for each variable: its first fault. A secret whose file is at fault is not called missing as well.
 */
function refusal(faults: readonly Fault[]): AppError {
  const first = new Map<string, Fault>();
  for (const each of faults) {
    if (!first.has(each.variable) && !first.has(`${each.variable}_FILE`)) first.set(each.variable, each);
  }
  const lines = [...first.values()].map((each) => `  ${each.variable} ${each.wrong}. Set ${each.set}.`);
  return new AppError("config_invalid", {
    message: `These settings are wrong; .env.example explains each:\n${lines.join("\n")}`,
    detail: { variables: [...first.keys()] },
  });
}

function passwordIn(url: string | undefined): string {
  return decodeQuietly(URL.parse(url ?? "")?.password ?? "");
}

/** 32 to 64 bytes (one block of HMAC) that look like chance; words and repetitions do not. */
function isRandom(text: string): boolean {
  const bytes = Buffer.from(text, "base64");
  const isText = bytes.every((byte) => byte >= 0x20 && byte < 0x7f);
  return (
    bytes.length >= 32 &&
    bytes.length <= 64 &&
    new Set(bytes).size >= 16 &&
    !isText &&
    !PLACEHOLDER.test(text)
  );
}
