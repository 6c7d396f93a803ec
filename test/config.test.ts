import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type Part, readConfig } from "../src/config.ts";
import { AppError } from "../src/errors.ts";
import { localSecrets } from "../src/secrets.ts";

const key = () => randomBytes(32).toString("base64");
const TICKET_KEY = key();
const JWT_SECRET_KEY = key();
const PASSWORD = "pw-that-nobody-may-see";
const DATABASE_URL = `postgres://holdfast_service:${PASSWORD}@db.internal:5432/holdfast`;
const PRODUCTION = { ENVIRONMENT: "production", DATABASE_URL, TICKET_KEY, JWT_SECRET_KEY };

let directory: string;
beforeEach(() => {
  directory = fs.mkdtempSync(join(tmpdir(), "holdfast-config-"));
});
afterEach(() => fs.rmSync(directory, { recursive: true }));

function refusalOf(part: Part, env: Record<string, string>): AppError {
  try {
    readConfig(part, env);
  } catch (error) {
    if (error instanceof AppError && error.code === "config_invalid") return error;
    throw error;
  }
  throw new Error("the settings were accepted");
}

const secretFile = (content: string) => {
  const path = join(directory, randomBytes(4).toString("hex"));
  fs.writeFileSync(path, content);
  return path;
};

test("an empty environment starts everything in development, offline, with secrets of this folder", () => {
  const config = readConfig("all", { HOLDFAST_DIR: directory });
  expect(config).toMatchObject({
    environment: "development",
    databaseUrl: undefined,
    postgresPort: 8403,
    databasePoolSize: 10,
    http: { host: "127.0.0.1", port: 8402 },
    metrics: { host: "127.0.0.1", port: 8404 },
    llm: { baseUrl: undefined, apiKey: undefined, model: undefined, deadlineMs: 30_000 },
    ...{ budgetLockTimeoutMs: 3_000, spoolDirectory: join(directory, "spool") },
    ...{ workerConcurrency: 4, leakedHandlersMax: 5, deadlockRetries: 3, tasksDatabaseUrl: undefined },
    logLevel: "info",
    directory,
  });
  const local = localSecrets(directory);
  expect(config.ticketKey).toEqual({ kid: 1, secret: local.ticketKey });
  expect(config.jwtSecretKey).toEqual(local.jwtSecretKey);
});

test("keys that are given are used, and then nothing is written", () => {
  const given = { HOLDFAST_DIR: join(directory, "new"), TICKET_KEY, TICKET_KEY_ID: "7", JWT_SECRET_KEY };
  const config = readConfig("all", given);
  expect(config.ticketKey).toEqual({ kid: 7, secret: Buffer.from(TICKET_KEY, "base64") });
  expect(config.jwtSecretKey.toString("base64")).toBe(JWT_SECRET_KEY);
  expect(fs.existsSync(given.HOLDFAST_DIR)).toBe(false);
});

test("the folder's default lies beside package.json, wherever the process was started", () => {
  const { directory: chosen } = readConfig("api", PRODUCTION);
  expect(chosen).toBe(resolve(import.meta.dirname, "../.holdfast"));
});

test("the spool lies in the folder, or where it is said", () => {
  expect(
    readConfig("worker", { ...PRODUCTION, TASKS_DATABASE_URL: DATABASE_URL, HOLDFAST_DIR: directory }),
  ).toMatchObject({
    spoolDirectory: join(directory, "spool"),
  });
  expect(readConfig("api", { ...PRODUCTION, SPOOL_DIR: "/var/spool/holdfast" })).toMatchObject({
    spoolDirectory: "/var/spool/holdfast",
  });
});

test("everything in one process is for development; the refusal names the parts", () => {
  for (const ENVIRONMENT of ["staging", "production"]) {
    const { message } = refusalOf("all", { ...PRODUCTION, ENVIRONMENT });
    expect(message).toMatch(/ENVIRONMENT .* npm run db:migrate, npm run api, npm run worker/);
  }
});

test("on a database of one's own the environment must be said", () => {
  expect(refusalOf("all", { DATABASE_URL, TICKET_KEY, JWT_SECRET_KEY }).message).toMatch(
    /ENVIRONMENT is missing/,
  );
  const development = readConfig("all", { ...PRODUCTION, ENVIRONMENT: "development" });
  expect(development.databaseUrl).toBe(DATABASE_URL);
});

test.each([
  ["api", ["ENVIRONMENT", "DATABASE_URL", "TICKET_KEY", "JWT_SECRET_KEY"]],
  ["worker", ["ENVIRONMENT", "DATABASE_URL", "TASKS_DATABASE_URL", "TICKET_KEY"]],
  ["import", ["ENVIRONMENT", "DATABASE_URL", "TICKET_KEY"]],
  ["migrate", ["ENVIRONMENT", "DATABASE_URL", "TICKET_KEY"]],
] as const)("%s alone needs %j, says all of it at once, and how to set it", (part, needed) => {
  const refusal = refusalOf(part, { HOLDFAST_DIR: directory });
  expect(refusal.detail).toEqual({ variables: needed });
  for (const name of needed)
    expect(refusal.message).toMatch(new RegExp(`^ {2}${name} is missing. Set \\S`, "m"));
  expect(refusal.message).toContain("TICKET_KEY_FILE");
  expect(fs.readdirSync(directory)).toEqual([]);
});

test("a part in development takes its keys from the local secrets, and needs its database still", () => {
  const worker = readConfig("import", { ENVIRONMENT: "development", DATABASE_URL, HOLDFAST_DIR: directory });
  expect(worker.ticketKey.secret).toEqual(localSecrets(directory).ticketKey);
  expect(refusalOf("worker", { ENVIRONMENT: "development", HOLDFAST_DIR: directory }).detail).toEqual({
    variables: ["DATABASE_URL", "TASKS_DATABASE_URL"],
  });
});

test("every fault is listed, each once, and no secret in any", () => {
  const refusal = refusalOf("api", {
    ENVIRONMENT: "prod",
    DATABASE_URL: `mysql://u:${PASSWORD}@h/d`,
    DATABASE_POOL_SIZE: "many",
    HTTP_PORT: "70000",
    METRICS_HOST: "a b",
    METRICS_PORT: "-1",
    TICKET_KEY: "c2hvcnQ=",
    TICKET_KEY_ID: "0",
    JWT_SECRET_KEY: `${PASSWORD}!`,
    LLM_BASE_URL: `ftp://u:${PASSWORD}@h`,
    LLM_API_KEY: `${PASSWORD}\nand more`,
    LLM_DEADLINE_MS: "5",
    BUDGET_LOCK_TIMEOUT: "60001",
    TASKS_DATABASE_URL: `https://u:${PASSWORD}@h/d`,
    WORKER_CONCURRENCY: "-1",
    LEAKED_HANDLERS_MAX: "0",
    SCHEDULER_DEADLOCK_RETRIES: "6",
    LOG_LEVEL: "loud",
  });
  const named = [...refusal.message.matchAll(/^ {2}([A-Z_]+) /gm)].map((match) => match[1]);
  expect(named.toSorted()).toEqual(
    [
      "BUDGET_LOCK_TIMEOUT",
      "DATABASE_POOL_SIZE",
      "DATABASE_URL",
      "ENVIRONMENT",
      "HTTP_PORT",
      "JWT_SECRET_KEY",
      "LLM_API_KEY",
      "LLM_BASE_URL",
      "LLM_DEADLINE_MS",
      "LLM_MODEL",
      "LOG_LEVEL",
      "METRICS_HOST",
      "METRICS_PORT",
      "TICKET_KEY",
      "TICKET_KEY_ID",
      "WORKER_CONCURRENCY",
      ...["TASKS_DATABASE_URL", "LEAKED_HANDLERS_MAX", "SCHEDULER_DEADLOCK_RETRIES"],
    ].toSorted(),
  );
  expect(refusal.message).toContain('HTTP_PORT is "70000". Set a port, 0 to 65535');
  expect(JSON.stringify([refusal.message, refusal.detail])).not.toContain(PASSWORD);
  expect(refusal.message).not.toContain("c2hvcnQ");
});

test.each([
  ["words", "changeme"],
  ["too few bytes", randomBytes(31).toString("base64")],
  ["more than a block of HMAC", randomBytes(65).toString("base64")],
  ["one byte repeated", Buffer.alloc(32, 7).toString("base64")],
  ["a passphrase in base64", Buffer.from("correct horse battery staple 123").toString("base64")],
  ["a placeholder in the shape of base64", `CHANGEME${key().slice(8)}`],
  ["base64 of the URL kind", Buffer.alloc(32, randomBytes(32)).toString("base64url").replace(/^../, "-_")],
])("a key that is %s is refused", (_name, weak) => {
  for (const name of ["TICKET_KEY", "JWT_SECRET_KEY"]) {
    expect(refusalOf("api", { ...PRODUCTION, [name]: weak }).detail).toEqual({ variables: [name] });
  }
});

test("one key for two purposes is refused", () => {
  expect(refusalOf("api", { ...PRODUCTION, JWT_SECRET_KEY: TICKET_KEY }).message).toMatch(
    /JWT_SECRET_KEY is the same as TICKET_KEY/,
  );
});

test.each(["changeme", "CHANGE_ME", "password", "your-password", "%3Cpassword%3E"])(
  "outside development a database password that is a placeholder (%s) is refused",
  (password) => {
    const url = `postgres://holdfast_service:${password}@db/holdfast`;
    expect(refusalOf("api", { ...PRODUCTION, DATABASE_URL: url }).message).toMatch(
      /DATABASE_URL has a placeholder/,
    );
    const development = { ...PRODUCTION, ENVIRONMENT: "development", DATABASE_URL: url };
    expect(readConfig("api", development).databaseUrl).toBe(url);
  },
);

test("each secret may come from a file; one newline at its end is not part of it", () => {
  const config = readConfig("api", {
    ENVIRONMENT: "production",
    DATABASE_URL_FILE: secretFile(`${DATABASE_URL}\n`),
    TICKET_KEY_FILE: secretFile(`${TICKET_KEY}\r\n`),
    JWT_SECRET_KEY_FILE: secretFile(JWT_SECRET_KEY),
    LLM_BASE_URL: "https://llm.internal/v1",
    LLM_MODEL: "large",
    LLM_API_KEY_FILE: secretFile("k-123\n"),
  });
  expect(config.databaseUrl).toBe(DATABASE_URL);
  expect(config.ticketKey.secret.toString("base64")).toBe(TICKET_KEY);
  expect(config.jwtSecretKey.toString("base64")).toBe(JWT_SECRET_KEY);
  expect(config.llm.apiKey).toBe("k-123");
});

test("a secret's file that is absent, empty, a folder, or beside the variable is a named fault", () => {
  const { TICKET_KEY: _, ...rest } = PRODUCTION;
  const absent = join(directory, "absent");
  expect(refusalOf("api", { ...rest, TICKET_KEY_FILE: absent }).message).toContain(
    `TICKET_KEY_FILE names ${absent}, which cannot be read (ENOENT)`,
  );
  expect(refusalOf("api", { ...rest, TICKET_KEY_FILE: directory }).message).toContain(
    "cannot be read (EISDIR)",
  );
  expect(refusalOf("api", { ...rest, TICKET_KEY_FILE: secretFile("\n") }).message).toContain(
    "which is empty",
  );
  const both = refusalOf("api", { ...PRODUCTION, TICKET_KEY_FILE: secretFile(TICKET_KEY) });
  expect(both.message).toMatch(/TICKET_KEY is set, and TICKET_KEY_FILE too/);
  // The file is what is wrong: that the secret is missing with it need not be said.
  expect(refusalOf("api", { ...rest, TICKET_KEY_FILE: absent }).detail).toEqual({
    variables: ["TICKET_KEY_FILE"],
  });
});

test("a variable that is set and empty counts as absent", () => {
  const empty = { LLM_BASE_URL: "", LLM_API_KEY: "", TICKET_KEY_FILE: "", HTTP_PORT: "", LOG_LEVEL: "" };
  expect(readConfig("api", { ...PRODUCTION, ...empty })).toMatchObject({
    http: { port: 8402 },
    logLevel: "info",
  });
});

test("a model needs an address, an address needs a model, and a local server needs no key", () => {
  const local = readConfig("import", {
    ...PRODUCTION,
    LLM_BASE_URL: "http://127.0.0.1:11434/v1",
    LLM_MODEL: "llama",
  });
  expect(local.llm).toMatchObject({
    baseUrl: "http://127.0.0.1:11434/v1",
    model: "llama",
    apiKey: undefined,
  });

  const noModel = refusalOf("worker", { ...PRODUCTION, LLM_BASE_URL: "http://127.0.0.1:11434/v1" });
  expect(noModel.message).toMatch(/LLM_MODEL is missing beside LLM_BASE_URL/);
  const noAddress = refusalOf("worker", { ...PRODUCTION, LLM_API_KEY: "k-123" });
  expect(noAddress.message).toMatch(/LLM_BASE_URL is missing beside LLM_API_KEY/);
  const modelAlone = refusalOf("worker", { ...PRODUCTION, LLM_MODEL: "large" });
  expect(modelAlone.message).toMatch(/LLM_BASE_URL is missing beside LLM_MODEL/);
});

test("local secrets that cannot be used are a fault among the others", () => {
  localSecrets(directory);
  fs.chmodSync(join(directory, "secrets.json"), 0o644);
  const refusal = refusalOf("all", { HOLDFAST_DIR: directory, HTTP_PORT: "x" });
  expect(refusal.message).toMatch(/HOLDFAST_DIR .*chmod 600/);
  expect(refusal.message).toMatch(/HTTP_PORT is "x"/);
});

test(".env.example names every variable, secrets with their file, and starts as it stands", () => {
  const text = fs.readFileSync(resolve(import.meta.dirname, "../.env.example"), "utf8");
  const settings = new Map(
    [...text.matchAll(/^# ?([A-Z_]+)=(.*)$/gm)].map((match) => [match[1]!, match[2]!]),
  );
  const source = fs.readFileSync(resolve(import.meta.dirname, "../src/config.ts"), "utf8");
  const names = [...source.matchAll(/^ {2}([A-Z][A-Z_]+): /gm)].map((match) => match[1]!);
  expect(names.length).toBeGreaterThan(14);
  for (const name of names) expect(settings.has(name), name).toBe(true);
  for (const name of ["DATABASE_URL", "TICKET_KEY", "JWT_SECRET_KEY", "LLM_API_KEY"]) {
    expect(settings.has(`${name}_FILE`), name).toBe(true);
  }
  // Nothing is set until a person sets it, and each default that is written is the one that holds.
  expect(text).not.toMatch(/^[^#\s]/m);
  const written = Object.fromEntries(
    [...settings].filter(([name]) => /PORT|HOST|SIZE|_MS|TIMEOUT|CONCURRENCY|LEVEL/.test(name)),
  );
  expect(readConfig("all", { ...written, HOLDFAST_DIR: directory })).toEqual(
    readConfig("all", { HOLDFAST_DIR: directory }),
  );
});
