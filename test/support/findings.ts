// Costs in which the detectors find three things, and the steps of an analysis over them, for tests.
import { beforeAll } from "vitest";
import { as, oneAs, type Row } from "./contract.ts";
import { type Cells, type Costs, costsOf, dayAfter, usage } from "./costs.ts";
import type { TestDatabase } from "./database.ts";
import { type Runs, runsOf } from "./runs.ts";

/** The last day of the costs; a Sunday. */
export const LAST_DAY = "2024-11-17";

const TAGS = JSON.stringify({ environment: "prod", owner: "a", cost_center: "7" });

/** 75 days of `usual` dollars a day for a service, and something else on days counted back from the last. */
export function costOf(
  service: string,
  usual: number,
  other: Record<number, number> = {},
  cells: Cells = {},
): Cells[] {
  return Array.from({ length: 75 }, (_, back) =>
    usage(dayAfter(LAST_DAY, -back), other[back] ?? usual, { service_name: service, tags: TAGS, ...cells }),
  );
}

/** By rank: a running shift of EC2 (60 a day), a spike of S3 (1,000), and 600 without the tag `owner`. */
export const THREE_FINDINGS: Cells[] = [
  ...costOf("EC2", 100, { 0: 160, 1: 160, 2: 160, 3: 160 }),
  ...costOf("S3", 100, { 6: 1_100 }),
  ...costOf("SQS", 20, {}, { tags: '{"environment": "prod", "cost_center": "7"}' }),
];

/** An item of a wording that SQL accepts. */
export type Item = {
  finding_id: string;
  mark: string;
  rank: number;
  headline: string;
  why: string;
  caveats: string[];
  remediation_code: string;
};

/** The steps of an analysis, as the worker takes them. */
export type Analyses = {
  readonly costs: Costs;
  readonly runs: Runs;
  /** Runs the detectors as a run of kind detection does; gives the counts. */
  detect(tenantId: string, runId: string, attempt?: number): Promise<Row>;
  /** The candidates of an analysis; without a slot it runs the detectors first. */
  candidates(tenantId: string, runId: string, attempt?: number): Promise<Row[]>;
  /** A run that the scheduler made for a slot, claimed. */
  scheduled(tenantId: string, kind: string, slot: number, input?: Record<string, unknown>): Promise<string>;
  /** Detects under a run of its own and completes it, worded by the template; gives the run and the candidates. */
  analyse(tenantId: string): Promise<{ runId: string; candidates: Row[] }>;
  /** The findings of a tenant by detector and rank, as they are stored. */
  findings(tenantId: string): Promise<Row[]>;
  /** The findings of a tenant as they are listed. */
  list(
    tenantId: string,
    options?: { state?: string | null; maxRows?: number | null; afterRank?: number | null },
  ): Promise<Row[]>;
};

export const BY_TEMPLATE = { narrated_by: "template", fallback_reason: "llm_unavailable", items: [] };

/** A wording by a model of these items. */
export const byModel = (items: unknown, summary: string | null = "All is told.") => ({
  narrated_by: "model",
  fallback_reason: null,
  provider: "offline",
  model: "offline-analyst",
  prompt_hash: "ab12",
  summary,
  items,
});

/** An accepted wording of a candidate, with differences. */
export function itemFor(candidate: Row, rank: number, different: Partial<Item> = {}): Item {
  return {
    finding_id: candidate["finding_id"],
    mark: candidate["mark"],
    rank,
    headline: "{{service}} stands out",
    why: "It is dearer than usual.",
    caveats: [],
    remediation_code: candidate["remediation_codes"][0],
    ...different,
  };
}

/** The analyses of a test database. */
export function analysesOf(database: TestDatabase): Analyses {
  const runs = runsOf(database);
  // Several runs of one tenant at a time, as where a tier has more places than one.
  beforeAll(async () => {
    await database.superuser.query("update app.job_kinds set max_running = null");
  });
  const analyses: Analyses = {
    costs: costsOf(database),
    runs,
    detect: (tenantId, runId, attempt = 1) =>
      oneAs(database.service, tenantId, "select * from app.findings_detect($1, $2, $3, $4)", [
        runId,
        attempt,
      ]),
    candidates: (tenantId, runId, attempt = 1) =>
      as(database.service, tenantId, "select * from app.analysis_candidates($1, $2, $3, $4)", [
        runId,
        attempt,
      ]),
    async scheduled(tenantId, kind, slot, input = {}) {
      const text =
        "insert into app.job_runs (tenant_id, kind, slot, input) values ($1, $2, $3, $4) returning id";
      const { rows } = await database.superuser.query(text, [tenantId, kind, slot, input]);
      await runs.claim(tenantId, rows[0].id);
      return rows[0].id;
    },
    async analyse(tenantId) {
      const runId = await runs.running(tenantId);
      const candidates = await analyses.candidates(tenantId, runId);
      await runs.complete(tenantId, runId, 1, BY_TEMPLATE);
      return { runId, candidates };
    },
    findings: async (tenantId) =>
      (
        await database.superuser.query("select * from app.findings where tenant_id = $1 order by rank, id", [
          tenantId,
        ])
      ).rows,
    list: (tenantId, { state = "open", maxRows = 50, afterRank = 0 } = {}) =>
      as(database.service, tenantId, "select * from app.findings_list($1, $2, $3, $4, $5)", [
        state,
        maxRows,
        afterRank,
      ]),
  };
  return analyses;
}
