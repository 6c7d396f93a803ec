// What a worker's process serves by itself: probes and metrics, from before its first run until its last has ended.
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import { TEST_TICKET_KEY } from "./support/constants.ts";
import { testDatabase } from "./support/database.ts";
import { endProcesses, logLines, type Running, run } from "./support/process.ts";

const database = testDatabase();

function startWorker(more: Record<string, string> = {}): Running {
  return run("npm", ["run", "--silent", "worker"], {
    ENVIRONMENT: "development",
    DATABASE_URL: database.url("holdfast_worker"),
    TASKS_DATABASE_URL: database.url("holdfast_service"),
    TICKET_KEY: TEST_TICKET_KEY.secret.toString("base64"),
    METRICS_PORT: "0",
    ...more,
  });
}

afterEach(endProcesses);

test("is alive, then ready, and counts what the database and it have done, until it ends", {
  timeout: 60_000,
}, async () => {
  const worker = startWorker();
  const url = (await worker.seen(/"url":"(http:[^"]+)"[^\n]*"msg":"probes_started"/))[1]!;
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  expect(await (await fetch(`${url}/livez`)).json()).toEqual({ status: "alive" });
  await worker.seen(/worker_started/);
  await expect
    .poll(async () => (await fetch(`${url}/readyz`)).status, { timeout: 15_000, interval: 100 })
    .toBe(200);
  expect(await (await fetch(`${url}/readyz`)).json()).toEqual({
    status: "ready",
    checks: { database: true, migrations: true, ticket_key: true, worker_seen: true, not_draining: true },
  });

  const scraped = async () => (await fetch(`${url}/metrics`)).text();
  await expect
    .poll(scraped, { timeout: 20_000, interval: 500 })
    .toMatch(/^scheduler_tick_duration_seconds_count [1-9]/m);
  const scrape = await scraped();
  for (const line of [
    /^holdfast_database_metrics_up 1$/m,
    /^holdfast_workers_alive \d$/m,
    /^holdfast_job_runs\{job_type="analysis",cohort="ACTIVE",state="parked"\} 0$/m,
    /^job_runs_finished_total\{job_type="detection",outcome="completed"\} \d/m,
    /^holdfast_pool_waiting\{pool="worker"\} \d/m,
    /^nodejs_eventloop_lag_seconds /m,
  ])
    expect(scrape).toMatch(line);

  expect((await fetch(`${url}/v1/findings`)).status).toBe(404);
  expect((await fetch(`${url}/livez`, { method: "DELETE" })).status).toBe(405);

  await database.superuser.query("delete from app.job_workers");
  const unseen = await fetch(`${url}/readyz`);
  expect(unseen.status).toBe(503);
  expect(await unseen.json()).toMatchObject({ checks: { database: true, worker_seen: false } });

  process.kill(worker.pid, "SIGTERM");
  const ended = await worker.ended;
  expect(ended.code, ended.stderr.slice(-2_000)).toBe(0);
  await expect(fetch(`${url}/livez`)).rejects.toThrow();
  const messages = logLines(ended.stderr).map((line) => line.msg);
  expect(messages.indexOf("worker_stopped")).toBeGreaterThan(messages.indexOf("probes_started"));
});

test("ends at once when their port is taken, and says which setting to change", {
  timeout: 30_000,
}, async () => {
  const inTheWay = createServer().listen(0, "127.0.0.1");
  await once(inTheWay, "listening");
  const port = String((inTheWay.address() as AddressInfo).port);
  const { code, stderr } = await startWorker({ METRICS_PORT: port }).ended;
  inTheWay.close();
  expect(code, stderr).toBe(1);
  expect(stderr).toMatch(new RegExp(`^config_invalid: .*${port}\nSet METRICS_PORT`, "m"));
  expect(stderr).not.toMatch(/^ +at /m);
});
