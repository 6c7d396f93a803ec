// The list of findings, as SQL ranked and worded them.
import { z } from "zod";
import { call, type Db } from "./db.ts";

const Finding = z.object({
  id: z.uuid(),
  rank: z.int(),
  detector: z.string(),
  severity: z.string(),
  state: z.string(),
  currency: z.string(),
  monthly_saving: z.string().nullable(),
  saving_basis: z.string().nullable(),
  confidence: z.string(),
  headline: z.string(),
  why: z.string(),
  caveats: z.array(z.string()),
  remediation_code: z.string(),
  narrated_by: z.enum(["model", "template"]),
  scope: z.record(z.string(), z.unknown()),
  evidence: z.unknown(),
  first_seen_at: z.date(),
  last_seen_at: z.date(),
  occurrences: z.int(),
});

/** One finding; `monthly_saving` is a decimal in `currency`, null where it is not known, never 0 for that. */
export type Finding = z.infer<typeof Finding>;

/** The findings in one state from the best on: at most `maxRows`, after the one whose rank is `afterRank`. */
export async function findingsList(
  db: Db,
  tenantId: string,
  page: { state: string; maxRows: number; afterRank: number },
): Promise<Finding[]> {
  return call(
    db,
    tenantId,
    `select id, rank, detector, severity, finding_state as state, currency, monthly_saving, saving_basis,
       confidence, headline, why, caveats, remediation_code, narrated_by, scope, evidence, first_seen_at,
       last_seen_at, occurrences
     from app.findings_list($1, $2, state => $3, max_rows => $4, after_rank => $5)`,
    [page.state, page.maxRows, page.afterRank],
    Finding,
  );
}
