// How well the detectors find what was planted in sample bills: recall and false alarms, beside a plain rule on the same
// days, for what is planted as it is in the sample, at half that size, and at a quarter. Each seed is five bills of 120
// days, three times. `npm run bench:detectors -- --seeds 2` prints a table and JSON.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import pg from "pg";
import type { TestProject } from "vitest/node";
import { importFocus } from "../../src/imports.ts";
import type { SeriesPlace, Truth } from "../../src/sample/truth.ts";
import { type SampleTenant, sampleTenants, writeSample } from "../../src/sample.ts";
import { inDatabase, TEST_PASSWORD, TEST_TICKET_KEY, type TestServer } from "../support/constants.ts";
import setup from "../support/server.ts";

const SCORED_DAYS = 30;
const LAST_DAY = Date.UTC(2025, 10, 20);
const SIZES = [1, 0.5, 0.25];

/** The rule that most teams start with, over the same days: half as much again as the mean of the 30 days before. */
const PLAIN_RULE = `
  with daily as (
    select d.sub_account_id, d.service_name, d.region_id, d.day, sum(d.effective_cost) as cost
    from app.cost_daily_current as d
    where d.tenant_id = $1 and d.charge_category = 'Usage' and not d.correction
    group by d.sub_account_id, d.service_name, d.region_id, d.day
  ),
  compared as (
    select d.*, max(d.day) over () as last_day, avg(d.cost) over (
      partition by d.sub_account_id, d.service_name, d.region_id order by d.day rows between 30 preceding and 1 preceding
    ) as mean
    from daily as d
  )
  select c.sub_account_id, c.service_name, c.region_id, c.day::text, c.cost - c.mean as excess
  from compared as c
  where c.day > c.last_day - ${SCORED_DAYS} and c.cost > 1.5 * c.mean and c.cost - c.mean >= 5`;

const DAYS_OF_OURS = `
  select sub_account_id, service_name, region_id, day::text, excess
  from app_private.cost_anomaly_days($1, ${SCORED_DAYS})`;

type FlaggedDay = {
  sub_account_id: string;
  service_name: string;
  region_id: string;
  day: string;
  excess: string;
};

/** Counts over all bills. `shifts` are found when one of their first three days is flagged. */
type DayScore = {
  spikes: number;
  spikesFound: number;
  shifts: number;
  shiftsFound: number;
  falseAlarms: number;
  seriesMonths: number;
  /** |measured - planted| / planted, of each spike found. */
  amountErrors: number[];
};

type TagScore = { tags: number; tagsFound: number; falseAlarms: number; shareErrors: number[] };

type RunningScore = { shifts: number; shiftsFound: number; falseAlarms: number; savingErrors: number[] };

/** All scores of what was planted at one size. */
type Score = { size: number; days: DayScore; plainDays: DayScore; running: RunningScore; tags: TagScore };

const { values: options } = parseArgs({ options: { seeds: { type: "string", default: "2" } } });

let server: TestServer | undefined;
const stop = await setup({
  provide: (_: string, value: TestServer) => (server = value),
} as unknown as TestProject);
try {
  await bench(server!, Number(options.seeds));
} finally {
  await stop();
}

async function bench({ administrator, host, port, template }: TestServer, seeds: number): Promise<void> {
  const login = (user: string) =>
    new pg.Pool({ host, port, user, password: TEST_PASSWORD, database: template });
  const people = login("holdfast_ops");
  const db = { pool: login("holdfast_worker"), ticketKey: TEST_TICKET_KEY };
  const superuser = new pg.Pool(inDatabase(administrator, template));
  const directory = await mkdtemp(join(tmpdir(), "bench-"));

  const scores: Score[] = [];
  let rows = 0;
  try {
    for (const size of SIZES) {
      const score = newScore(size);
      scores.push(score);
      for (let seed = 0; seed < seeds; seed++) {
        // Another weekday for each seed: a spike on a Sunday is not one on a Monday.
        for (const tenant of sampleTenants(new Date(LAST_DAY - seed * 86_400_000))) {
          const sample = await writeSample(planted(tenant, size, seed), directory);
          const tenantId = await addTenant(people, `${tenant.name}, size ${size}, seed ${seed}`);
          rows += (await importFocus(db, tenantId, { path: sample.path, source: "bench" })).rows;
          const query = async <T>(text: string) => (await superuser.query(text, [tenantId])).rows as T[];
          const series = tenant.workloads.length;
          scoreDays(score.days, sample.truth, await query(DAYS_OF_OURS), series);
          scoreDays(score.plainDays, sample.truth, await query(PLAIN_RULE), series);
          scoreRunning(
            score.running,
            sample.truth,
            await query("select * from app_private.detect_cost_anomaly($1)"),
          );
          scoreTags(
            score.tags,
            sample.truth,
            await query("select * from app_private.detect_untagged_spend($1)"),
          );
        }
      }
    }
  } finally {
    await Promise.all([people.end(), db.pool.end(), superuser.end()]);
    await rm(directory, { recursive: true });
  }
  print(scores, rows);
}

/** The tenant with another seed, and with spikes and shifts at this part of their size. */
function planted(tenant: SampleTenant, size: number, seed: number): SampleTenant {
  const smaller = <T extends { times: number }>(each: T): T => ({
    ...each,
    times: 1 + (each.times - 1) * size,
  });
  const workloads = tenant.workloads.map((workload) => ({
    ...workload,
    spikes: workload.spikes.map(smaller),
    ...(workload.shift === undefined ? {} : { shift: smaller(workload.shift) }),
  }));
  return { ...tenant, seed: tenant.seed + seed, workloads };
}

async function addTenant(people: pg.Pool, name: string): Promise<string> {
  const text = "select tenant_id from ops.tenant_add(name => $1, limit_usd => 1, reason => 'bench')";
  return String((await people.query(text, [name])).rows[0].tenant_id);
}

function newScore(size: number): Score {
  const days = () => ({
    spikes: 0,
    spikesFound: 0,
    shifts: 0,
    shiftsFound: 0,
    falseAlarms: 0,
    seriesMonths: 0,
  });
  return {
    size,
    days: { ...days(), amountErrors: [] },
    plainDays: { ...days(), amountErrors: [] },
    running: { shifts: 0, shiftsFound: 0, falseAlarms: 0, savingErrors: [] },
    tags: { tags: 0, tagsFound: 0, falseAlarms: 0, shareErrors: [] },
  };
}

function scoreDays(score: DayScore, truth: Truth, flagged: FlaggedDay[], series: number): void {
  const days = new Map(flagged.map((each) => [keyOf(placeOf(each), each.day), Number(each.excess)]));
  const explained = new Set<string>();
  for (const spike of truth.spikes) {
    const key = keyOf(spike, spike.day);
    const excess = days.get(key);
    explained.add(key);
    score.spikes++;
    if (excess === undefined) continue;
    score.spikesFound++;
    score.amountErrors.push(Math.abs(excess - spike.amount) / spike.amount);
  }
  for (const shift of truth.shifts) {
    score.shifts++;
    const first = [0, 1, 2].map((days) => keyOf(shift, dayAfter(shift.fromDay, days)));
    if (first.some((key) => days.has(key))) score.shiftsFound++;
    for (let day = 0; day < SCORED_DAYS; day++) explained.add(keyOf(shift, dayAfter(shift.fromDay, day)));
  }
  score.falseAlarms += [...days.keys()].filter((key) => !explained.has(key)).length;
  score.seriesMonths += (series * SCORED_DAYS) / 30.4375;
}

type Finding = {
  scope: Record<string, string>;
  evidence: Record<string, unknown>;
  monthly_saving: string | null;
};

/** A finding with a saving is one that says "this still runs": a planted shift, or a false alarm. */
function scoreRunning(score: RunningScore, truth: Truth, findings: Finding[]): void {
  const found = findings.filter(({ monthly_saving }) => monthly_saving !== null);
  score.shifts += truth.shifts.length;
  for (const { scope, monthly_saving } of found) {
    const place = { subAccount: scope["sub_account"]!, service: scope["service"]!, region: scope["region"]! };
    const shift = truth.shifts.find((each) => keyOf(each, "") === keyOf(place, ""));
    if (shift === undefined) {
      score.falseAlarms++;
      continue;
    }
    const planted = shift.dailyAmount * 30.4375;
    score.shiftsFound++;
    score.savingErrors.push(Math.abs(Number(monthly_saving) - planted) / planted);
  }
}

/** The detector speaks of 5 percent and more of the last 30 days; the truth is of all days, so a tag near 5 is left out. */
function scoreTags(score: TagScore, truth: Truth, findings: Finding[]): void {
  const share = new Map(truth.untagged.map((each) => [each.tagKey, each.share]));
  const near = (tag: string) => Math.abs((share.get(tag) ?? 0) - 0.05) < 0.01;
  const expected = truth.untagged.filter(({ tagKey, share: part }) => part >= 0.05 && !near(tagKey));
  score.tags += expected.length;
  for (const { scope, evidence } of findings) {
    const tag = scope["tag"]!;
    if (near(tag)) continue;
    if (!expected.some(({ tagKey }) => tagKey === tag)) {
      score.falseAlarms++;
      continue;
    }
    score.tagsFound++;
    score.shareErrors.push(Math.abs(1 - Number(evidence["coverage"]) - share.get(tag)!));
  }
}

function print(scores: Score[], rows: number): void {
  const table = scores.flatMap(({ size, days, plainDays, running, tags }) => [
    { rule: "cost_anomaly, day by day", size, ...rowOf(days) },
    { rule: "1.5 x mean of 30 days", size, ...rowOf(plainDays) },
    { rule: "cost_anomaly, still running", size, ...rowOfRunning(running) },
    { rule: "untagged_spend", size, ...rowOfTags(tags) },
  ]);
  console.table(table);
  console.log(JSON.stringify({ rows, results: table }));
}

function rowOf(score: DayScore) {
  return {
    spikes: `${score.spikesFound} of ${score.spikes}`,
    shifts: `${score.shiftsFound} of ${score.shifts}`,
    false_alarms: score.falseAlarms,
    per_series_month: Number((score.falseAlarms / score.seriesMonths).toFixed(4)),
    median_error: median(score.amountErrors),
  };
}

function rowOfRunning({ shifts, shiftsFound, falseAlarms, savingErrors }: RunningScore) {
  return {
    shifts: `${shiftsFound} of ${shifts}`,
    false_alarms: falseAlarms,
    median_error: median(savingErrors),
  };
}

function rowOfTags({ tags, tagsFound, falseAlarms, shareErrors }: TagScore) {
  return { tags: `${tagsFound} of ${tags}`, false_alarms: falseAlarms, median_error: median(shareErrors) };
}

function placeOf(flagged: FlaggedDay): SeriesPlace {
  return { subAccount: flagged.sub_account_id, service: flagged.service_name, region: flagged.region_id };
}

function keyOf({ subAccount, service, region }: SeriesPlace, day: string): string {
  return [subAccount, service, region, day].join("|");
}

function dayAfter(day: string, days: number): string {
  return new Date(Date.parse(day) + days * 86_400_000).toISOString().slice(0, 10);
}

function median(values: number[]): number | null {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted[sorted.length >> 1];
  return middle === undefined ? null : Number(middle.toFixed(4));
}
