// Attempts to get out: by the setting that holds the tenant of the transaction, and by others.
import { HOSTILE_SETTINGS } from "../settings.ts";
import { AGAIN, BRING, type Escape, KEEP, READ, SPOOF } from "./escape.ts";

/** By the setting that holds the tenant of the transaction, and by others. */
export const THE_SETTING: Escape[] = [
  {
    name: "the other tenant's id",
    steps: ["select set_config('app.tenant', '$FOREIGN', true)", READ],
    reads: "refused",
  },
  { name: "the other tenant under the seal of this one", steps: [`select ${SPOOF}`, READ], reads: "refused" },
  {
    name: "the other tenant under a seal of many kinds",
    steps: [
      "select set_config('app.tenant', '$FOREIGN.' || encode(sha256(convert_to('$FOREIGN', 'UTF8')), 'hex'), true)",
      READ,
      "select set_config('app.tenant', '$FOREIGN.' || repeat('0', 64), true)",
      READ,
      "select set_config('app.tenant', '$FOREIGN' || current_setting('app.tenant'), true)",
      READ,
    ],
    reads: "refused",
  },
  {
    name: "the setting changed in the statement that reads, before it reads",
    steps: [
      `with spoof as materialized (select ${SPOOF} as value)
       select f.* from spoof cross join lateral (select * from tenant.findings as x where spoof.value is not null) as f`,
      `select f.* from (select ${SPOOF} as value offset 0) as s join tenant.findings as f on s.value is not null`,
    ],
    refused: /^RL101$/,
  },
  {
    name: "the setting changed in the statement that reads, while it reads",
    steps: [
      `select ${SPOOF}, f.* from tenant.findings as f`,
      `select f.* from tenant.findings as f where ${SPOOF} is not null`,
      `select f.* from tenant.findings as f order by ${SPOOF}`,
      `select (select count(*) from tenant.findings), ${SPOOF}, (select string_agg(f.why, ',') from tenant.findings as f)`,
      `select f.* from tenant.findings as f union all select f.* from tenant.findings as f where ${SPOOF} is not null
       union all select f.* from tenant.findings as f`,
      `select f.* from tenant.findings as f cross join lateral (select ${SPOOF} as v offset 0) as s
       cross join lateral (select * from tenant.job_runs as r where s.v is not null offset 0) as r`,
    ],
  },
  { name: "reset all", steps: ["reset all", READ], reads: "refused" },
  { name: "reset of the one setting", steps: ["reset app.tenant", READ], reads: "refused" },
  {
    name: "the setting left in the session for the next transaction",
    steps: [KEEP, "set app.tenant = '$FOREIGN'", "commit", AGAIN, READ, BRING, READ, `select ${SPOOF}`, READ],
    reads: "refused",
  },
  {
    name: "everything discarded",
    steps: ["discard all", "commit", "discard all", "set row_security = on; set role holdfast_tenant", READ],
    reads: "refused",
  },
  {
    name: "settings that change how SQL is read, for this transaction and the next",
    steps: [
      ...HOSTILE_SETTINGS,
      READ,
      `select ${SPOOF}`,
      "select * from tenant.findings",
      "commit",
      ...HOSTILE_SETTINGS,
      "select app.enter('$FOREIGN', '$TICKET')",
      "select * from app.findings_list('$FOREIGN', '$TICKET')",
      "select * from app.analysis_get('$MINE', '$TICKET', '$RUN')",
      "select * from app.llm_reserve('$MINE', '$TICKET', E'x\\'; select 1 --', 'offline', 'offline-analyst', 1, 1)",
    ],
  },
  { name: "row_security turned off", steps: ["set local row_security = off", READ], reads: "refused" },
];
