// The main job as a user runs it: `npm start` on an embedded server, from an empty folder on. The tests build
// on one another, for they share the folder that the first one starts.
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { z } from "zod";
import { mintToken } from "../src/auth.ts";
import { buildPrompt } from "../src/narrative/prompt.ts";
import { sampleTenants, writeSample } from "../src/sample.ts";
import { localSecrets } from "../src/secrets.ts";
import {
  cleanUp,
  type Ended,
  endProcesses,
  lives,
  lockOf,
  logLines,
  look,
  newDirectory,
  PROJECT,
  postmasterPid,
  run,
  runNode,
  runNpmStart,
} from "./support/process.ts";

const REAL_FILE = join(PROJECT, "../shared/data/focus/focus_1_0_sample.csv");
const ROUND_MS = 60_000;

const directory = newDirectory();
const settings = { HOLDFAST_DIR: directory, HTTP_PORT: "0" };
const samples = sampleTenants(new Date("2026-05-01"));

afterEach(endProcesses);
afterAll(cleanUp);

const Line = z.strictObject({
  tenant: z.string(),
  tier: z.enum(["HIGH_VALUE", "ACTIVE", "DORMANT"]),
  rows: z.int(),
  flags: z.int(),
  findings: z.int(),
  saving: z.number().nullable(),
  currency: z.string().nullable(),
  reserved: z.number(),
  settled: z.number(),
  left: z.number(),
  state: z.string(),
});
type Line = z.infer<typeof Line>;

/** The report on stdout; fails when anything else is there. */
function reportOf({ stdout }: Ended): Line[] {
  return z.strictObject({ tenants: z.array(Line) }).parse(JSON.parse(stdout)).tenants;
}

/** What a start does not change when nothing new came in. */
function standing(lines: Line[]): object[] {
  return lines.map(({ tenant, tier, rows, flags, findings, saving }) => ({
    tenant,
    tier,
    rows,
    flags,
    findings,
    saving,
  }));
}

function secretsOf(folder: string): string[] {
  const file = JSON.parse(fs.readFileSync(join(folder, "secrets.json"), "utf8"));
  return [file.ticketKey, file.jwtSecretKey, ...Object.values<string>(file.passwords)];
}

function tokenFor(tenantId: string): Promise<string> {
  return mintToken(localSecrets(directory), { tenantId, subject: "test", expiresIn: "5m" });
}

/** Every file below the folder that another user may read. */
function worldReadable(folder: string): string[] {
  return fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => (fs.statSync(path).mode & 0o004) !== 0);
}

let first: Line[];

describe("the first start", { timeout: ROUND_MS }, () => {
  let ended: Ended;

  it("prints one JSON document, and ends", async () => {
    // At this level everything is said that ever is.
    ended = await runNpmStart(["--once", "--json"], { ...settings, LOG_LEVEL: "trace" }).ended;
    expect(ended, ended.stderr.slice(-3_000)).toMatchObject({ code: 0 });
    first = reportOf(ended);
  });

  it("has five tenants on three tiers, each with its rows and its end", () => {
    expect(first.map(({ tenant, tier }) => ({ name: tenant, tier }))).toEqual(
      expect.arrayContaining(samples.map(({ name, tier }) => ({ name, tier }))),
    );
    expect(first).toHaveLength(5);
    expect(first.map((line) => line.tier)).toEqual([
      "HIGH_VALUE",
      "HIGH_VALUE",
      "ACTIVE",
      "ACTIVE",
      "DORMANT",
    ]);
    for (const line of first) {
      expect(line.rows, line.tenant).toBeGreaterThan(1_000);
      expect(line.flags, line.tenant).toBeLessThan(line.rows);
      expect(line.state, line.tenant).toBe(
        line.tenant === "Zero Budget GmbH" ? "budget_exceeded" : "completed",
      );
    }
    expect(first.reduce((sum, line) => sum + line.findings, 0)).toBeGreaterThan(5);
  });

  it("spends within what it has reserved, and nothing where there is no budget", () => {
    for (const { tenant, reserved, settled, left } of first) {
      const limit = Number(samples.find((sample) => sample.name === tenant)?.monthlyBudgetUsd);
      expect(settled, tenant).toBeLessThanOrEqual(reserved);
      expect(left, tenant).toBeCloseTo(limit - settled, 9);
    }
    const zero = first.find((line) => line.tenant === "Zero Budget GmbH");
    expect(zero).toMatchObject({ reserved: 0, settled: 0, left: 0 });
    expect(zero?.findings).toBeGreaterThan(0);
    expect(first.filter((line) => line.settled > 0).length).toBeGreaterThanOrEqual(3);
  });

  it("logs each hold before its settlement, with its id", () => {
    const lines = logLines(ended.stderr);
    const held = lines.filter((line) => line.msg === "llm_reserved").map((line) => line["reservation_id"]);
    const settled = lines.filter((line) => line.msg === "llm_settled").map((line) => line["reservation_id"]);
    expect(held.length).toBe(first.filter((line) => line.reserved > 0).length);
    expect(new Set(settled)).toEqual(new Set(held));
    for (const id of held) {
      const steps = lines.filter((line) => line["reservation_id"] === id).map((line) => line.msg);
      expect(steps).toEqual(["llm_reserved", "llm_settled"]);
    }
  });

  it("says no secret, no ticket and no prompt, not even at level trace", () => {
    expect(
      logLines(ended.stderr).some((line) => line["level"] === "trace" || line["level"] === "debug"),
    ).toBe(true);
    for (const secret of secretsOf(directory)) {
      expect(ended.stderr).not.toContain(secret);
      expect(ended.stdout).not.toContain(secret);
    }
    expect(ended.stderr).not.toMatch(/v1\.\d+\.[0-9a-f-]{36}\.\d+\.\d+\./);
    expect(ended.stderr).not.toMatch(/postgres(ql)?:\/\/[^\s:]+:[^\s[]+@/);
    expect(ended.stderr).not.toContain(buildPrompt([]).asked.instructions.slice(0, 40));
  });

  it("leaves no server, no lock and no sample files behind", () => {
    expect(lives(postmasterPid(directory))).toBe(false);
    expect(lockOf(directory)).toBeUndefined();
    expect(fs.existsSync(join(directory, "sample"))).toBe(false);
  });

  it("keeps its secrets to itself", () => {
    expect(fs.statSync(join(directory, "secrets.json")).mode & 0o777).toBe(0o600);
    expect(fs.statSync(directory).mode & 0o066).toBe(0);
    const secrets = secretsOf(directory);
    for (const path of worldReadable(directory)) {
      const text = fs.readFileSync(path, "latin1");
      expect(
        secrets.filter((secret) => text.includes(secret)),
        path,
      ).toEqual([]);
    }
    // Passwords are sent once, when they are set: the server has not written them down.
    const serverLog = fs.readFileSync(join(directory, "postgres.log"), "utf8");
    expect(secrets.filter((secret) => serverLog.includes(secret))).toEqual([]);
  });
});

describe("the second start", { timeout: ROUND_MS }, () => {
  it("prints the same as a table, makes nothing twice, and is quick", async () => {
    const ended = await runNpmStart(["--once"], settings).ended;
    expect(ended, ended.stderr.slice(-3_000)).toMatchObject({ code: 0 });
    expect(ended.ms).toBeLessThan(20_000);
    const [headings, rule, ...rows] = ended.stdout.split("\n\n")[0]!.split("\n");
    expect(headings).toMatch(
      /^tenant +tier +rows imported +flagged +findings +saving \/ month +LLM reserved/,
    );
    expect(rule).toMatch(/^[─ ]+$/);
    const cells = rows.map((row) => row.split(/ {2,}/));
    expect(cells.map(([tenant, , ...numbers]) => [tenant, ...numbers.slice(0, 3)])).toEqual(
      first.map((line) => [
        line.tenant,
        line.rows.toLocaleString("en-US"),
        line.flags.toLocaleString("en-US"),
        String(line.findings),
      ]),
    );
    expect(cells.map((row) => row[1]?.split(" ")[0])).toEqual(first.map((line) => line.tier));
    expect(cells.map((row) => row.at(-1))).toEqual(first.map((line) => line.state));
    expect(ended.stdout).not.toContain("npm"); // --once serves nothing, so it tells of no URL
    expect(lives(postmasterPid(directory))).toBe(false);
  });
});

describe("a file of the user's own", { timeout: ROUND_MS }, () => {
  const folder = fs.mkdtempSync(join(directory, "..", "bills-"));
  const tenant = "Own File Ltd";

  async function importing(path: string, name = tenant, more: string[] = []): Promise<Ended> {
    const args = ["start", "--once", "--json", "--import", path, "--tenant", name, ...more];
    return runNode(args, settings).ended;
  }

  it("is imported and analysed, for a tenant that is made for it; twice is once", async () => {
    const rows = 1_200;
    const bill = fs.readFileSync((await writeSample(samples[4]!, folder)).path, "utf8").split("\n");
    const path = join(folder, "bill.csv");
    fs.writeFileSync(path, `${bill.slice(0, rows + 1).join("\n")}\n`);
    const ended = await importing(path);
    expect(ended, ended.stderr.slice(-3_000)).toMatchObject({ code: 0 });
    const line = reportOf(ended).find((each) => each.tenant === tenant);
    expect(line).toMatchObject({ tier: "ACTIVE", rows, state: "completed" });
    expect(ended.stderr).toContain(`rows for ${tenant}`);

    const other = join(folder, "other.csv");
    fs.copyFileSync(path, other);
    const replacing = await importing(other);
    expect(replacing.stderr).toContain(
      `they replace ${rows} rows of bill.csv (same source and month: use --source to keep both)`,
    );
    const again = reportOf(replacing);
    expect(again.find((each) => each.tenant === tenant)).toMatchObject({ rows, state: "completed" });
    expect(standing(again.filter((each) => each.tenant !== tenant))).toEqual(standing(first));
  });

  it("is kept beside another of the same months when it has a source of its own", async () => {
    const path = join(folder, "bill.csv");
    const name = "Two Sources";
    const alone = reportOf(await importing(path, name));
    const both = reportOf(await importing(path, name, ["--source", "b"]));
    expect([alone, both].map((lines) => lines.find((each) => each.tenant === name)?.rows)).toEqual([
      1_200, 2_400,
    ]);
  });

  it("is found from the folder in which the user typed", async () => {
    const user = fs.mkdtempSync(join(folder, "user-"));
    fs.writeFileSync(join(user, "broken.csv"), "not,a,bill\n1,2,3\n");
    const args = ["--prefix", PROJECT, "start", "--silent", "--"];
    const started = run("npm", [...args, "--once", "--import", "broken.csv", "--tenant", tenant], settings, {
      cwd: user,
    });
    const { code, stderr } = await started.ended;
    expect(stderr).toContain("focus_invalid: broken.csv, line 1");
    expect(code).toBe(1);
  });

  it("is refused by file, line and column when it is broken, and what was visible stays", async () => {
    const { path } = await writeSample(samples[4]!, folder);
    const lines = fs.readFileSync(path, "utf8").split("\n");
    const broken = join(folder, "broken.csv");
    const column = lines[0]!.split(",").indexOf('"BilledCost"');
    const cells = lines[516]!.match(/("(?:[^"]|"")*"|[^,]*)(?:,|$)/g)!.map((cell) => cell.replace(/,$/, ""));
    cells[column] = "a lot";
    lines[516] = cells.slice(0, lines[0]!.split(",").length).join(",");
    fs.writeFileSync(broken, lines.join("\n"));

    const refused = await importing(broken);
    expect(refused.code).toBe(1);
    expect(refused.stdout).toBe("");
    expect(refused.stderr).toMatch(/focus_invalid: broken\.csv, line 517, column BilledCost: "a lot"/);
    expect(refused.stderr).not.toMatch(/^ +at /m);
    expect(lives(postmasterPid(directory))).toBe(false);

    const missing = await importing(join(folder, "nowhere.csv"));
    expect(missing).toMatchObject({ code: 1, stdout: "" });
    expect(missing.stderr).toContain("nowhere.csv");
    expect(missing.stderr).not.toMatch(/^ +at /m);
  });

  it.skipIf(!fs.existsSync(REAL_FILE))("may be a real export of 1,000 rows", async () => {
    const lines = reportOf(await importing(REAL_FILE, "Real Export"));
    expect(lines.find((line) => line.tenant === "Real Export")).toMatchObject({
      rows: 1_000,
      state: "completed",
    });
    expect(
      standing(lines.filter((line) => !["Real Export", "Two Sources", tenant].includes(line.tenant))),
    ).toEqual(standing(first));
    expect(lines.find((line) => line.tenant === tenant)?.rows).toBe(1_200);
  });
  if (!fs.existsSync(REAL_FILE)) console.info(`the real export is not tested: ${REAL_FILE} is not here`);
});

describe("serving", { timeout: ROUND_MS }, () => {
  const inTheWay = createServer();
  afterAll(() => inTheWay.close());

  it("serves until it is told to end; what it prints works as printed", async () => {
    inTheWay.listen(0, "127.0.0.1");
    await once(inTheWay, "listening");
    const { port } = inTheWay.address() as AddressInfo;
    const system = runNpmStart([], { ...settings, HTTP_PORT: String(port) });
    const url = (await system.seen(/holdfast serves on (http:\S+) until Ctrl-C/))[1]!;
    await system.seen(/psql .*\n/);

    // Another program has the port, so a free one is taken, and said.
    expect(url).not.toContain(`:${port}`);
    expect(system.stderr()).toContain(`Port ${port} is taken by another program`);

    const curl = /^ +(curl -H 'Authorization: Bearer (\S+)' (\S+))$/m.exec(system.stdout());
    expect(curl?.[3]).toBe(`${url}/v1/findings`);
    expect(await answerOf(curl![1]!, curl![2]!, curl![3]!)).toMatchObject({
      findings: expect.arrayContaining([expect.objectContaining({ headline: expect.any(String) })]),
    });

    const psql = /^ +(PGPASSFILE=.*psql .*)$/m.exec(system.stdout())?.[1];
    if (runs("psql", "--version")) {
      const shown = spawnSync("bash", ["-c", `${psql} --no-password`], { cwd: PROJECT, encoding: "utf8" });
      expect(shown.stderr).toBe("");
      expect(shown.stdout).toMatch(/tenant +\| severity +\| +saving +\| cur +\| +headline/);
    } else {
      expect(psql).toMatch(/psql -h 127\.0\.0\.1 -p \d+ -U holdfast_ops -d holdfast -c 'select /);
    }
    expect(fs.statSync(join(directory, "pgpass")).mode & 0o777).toBe(0o600);

    await probesAnswer(url);
    await analysesAnswer(url, curl![2]!);
    await secondStartIsRefused(system.pid);
    expect(system.child.exitCode).toBeNull();

    // Ctrl-C: the terminal tells the whole group, and npm passes its own copy on.
    const postmaster = postmasterPid(directory);
    process.kill(-system.pid, "SIGINT");
    const { code, ms, stderr } = await system.ended;
    expect({ code, server: lives(postmaster) }, stderr.slice(-2_000)).toEqual({ code: 0, server: false });
    expect(ms).toBeLessThan(ROUND_MS);
    expect(logLines(stderr).map((line) => line.msg)).toEqual(
      expect.arrayContaining(["api_stopped", "worker_stopped"]),
    );
  });

  it.each([
    ["SIGTERM", 1],
    ["SIGINT", 2],
    ["SIGHUP", 1],
  ] as const)("ends in order on %s, sent to node %i times at the report", async (signal, times) => {
    const system = runNode(["start"], settings);
    await system.seen(/until Ctrl-C/);
    const postmaster = postmasterPid(directory);
    expect(lives(postmaster)).toBe(true);
    const since = performance.now();
    for (let sent = 0; sent < times; sent += 1) {
      process.kill(system.pid, signal);
      await sleep(5);
    }
    const { code, stderr } = await system.ended;
    expect({ code, server: lives(postmaster) }, stderr.slice(-2_000)).toEqual({ code: 0, server: false });
    expect(performance.now() - since).toBeLessThan(20_000);
    expect(lockOf(directory)).toBeUndefined();
  });

  it("ends in order on SIGTERM sent to npm, also when its server was killed under it", async () => {
    const system = runNpmStart([], settings);
    const url = (await system.seen(/holdfast serves on (http:\S+)/))[1]!;
    process.kill(postmasterPid(directory)!, "SIGKILL");
    await expect.poll(async () => (await fetch(`${url}/readyz`)).status, { timeout: 10_000 }).toBe(503);
    expect((await fetch(`${url}/livez`)).status).toBe(200);
    process.kill(system.pid, "SIGTERM");
    const { code, stderr } = await system.ended;
    expect(code, stderr.slice(-2_000)).toBe(0);
    expect(lockOf(directory)).toBeUndefined();
  });

  it("ends in order when nobody reads what it prints", async () => {
    const system = runNode(["start"], settings);
    system.child.stdout?.destroy();
    await system.seen(/api_started/);
    const postmaster = postmasterPid(directory);
    const { stderr } = await system.ended;
    expect(lives(postmaster), stderr.slice(-2_000)).toBe(false);
    expect(lockOf(directory)).toBeUndefined();
  });
});

/** What the printed curl line answers; where there is no curl, what it would. */
async function answerOf(line: string, token: string, url: string): Promise<unknown> {
  if (runs("curl", "--version"))
    return JSON.parse(spawnSync("bash", ["-c", line], { encoding: "utf8" }).stdout);
  const response = await fetch(url, { headers: { authorization: `Bearer ${token}` } });
  return response.json();
}

function runs(program: string, argument: string): boolean {
  return spawnSync(program, [argument]).status === 0;
}

async function probesAnswer(url: string): Promise<void> {
  for (const path of ["/livez", "/readyz", "/health"])
    expect((await fetch(url + path)).status, path).toBe(200);
  expect((await fetch(`${url}/health`, { method: "POST" })).status).toBe(200);
  expect((await fetch(`${url}/v1/findings`)).status).toBe(401);
  for (const path of ["/metrics", "/health/metrics"]) {
    const metrics = await (await fetch(url + path)).text();
    expect(metrics).toMatch(/api_request_duration_seconds_count\{.*route="\/v1\/findings".*\} [1-9]/);
  }
}

async function analysesAnswer(url: string, token: string): Promise<void> {
  const headers = { authorization: `Bearer ${token}` };
  const asked = await fetch(`${url}/v1/analyses`, { method: "POST", headers });
  expect(asked.status).toBe(202);
  const location = asked.headers.get("location");
  const analysis = async () => (await fetch(`${url}${location}`, { headers })).json();
  await expect
    .poll(analysis, { timeout: 20_000, interval: 100 })
    .toMatchObject({ status: "COMPLETED", narrated_by: "model" });

  const [zero] = await look(directory, "select tenant_id from app.tenants where name = 'Zero Budget GmbH'");
  const count = "select count(*)::int as runs from app.job_runs where tenant_id = $1";
  const before = await look(directory, count, [zero.tenant_id]);
  const refused = await fetch(`${url}/v1/analyses`, {
    method: "POST",
    headers: { authorization: `Bearer ${await tokenFor(zero.tenant_id)}` },
  });
  expect(refused.status).toBe(402);
  expect(refused.headers.get("content-type")).toContain("application/problem+json");
  expect(await refused.json()).toMatchObject({ code: "budget_exceeded", status: 402 });
  expect(await look(directory, count, [zero.tenant_id])).toEqual(before);
  expect(await look(directory, "select * from app.llm_check()")).toEqual([]);
}

async function secondStartIsRefused(pid: number): Promise<void> {
  const { code, stdout, stderr } = await runNpmStart([], settings).ended;
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toContain("already_running");
  expect(stderr).toContain(directory);
  expect(lives(pid)).toBe(true);
}
