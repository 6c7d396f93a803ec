// Attempts to get out: by another role, and by what the login may do that the tenant role comes from.
import { type Escape, READ } from "./escape.ts";

/** By another role, and by what the login may do that the tenant role comes from. */
export const ROLES: Escape[] = [
  { name: "reset role", steps: ["reset role", READ], reads: "refused" },
  { name: "set role none", steps: ["set local role none", READ], reads: "refused" },
  {
    name: "the role dropped inside a select",
    steps: [
      "select set_config('role', 'none', true), f.* from tenant.findings as f",
      "select set_config('role', 'none', true)",
      READ,
    ],
    reads: "refused",
  },
  {
    name: "another session authorization",
    steps: [
      "set session authorization holdfast_worker",
      "set local session authorization holdfast_owner",
      "select set_config('session_authorization', 'holdfast_system', true)",
    ],
    refused: /^42501$/,
  },
  { name: "the session authorization it has", steps: ["set session authorization default", READ] },
  {
    name: "the login's own functions, without a ticket",
    steps: [
      "reset role",
      "select * from app.budget_status('$FOREIGN', null)",
      "select * from app.findings_list('$FOREIGN', '')",
      "select * from app.analysis_get('$FOREIGN', '$TICKET', '$RUN')",
      "select * from app.analysis_get('$MINE', '$TICKET', '$RUN')",
      "select app.enter('$FOREIGN', '$TICKET')",
      "select * from app.schedule_tick()",
      "select app.tenant_find('x')",
      "select * from app.llm_check()",
      "select * from ops.tenants",
      "select * from app_private.seal_secret",
      "select * from app_private.ticket_keys",
      "select * from graphile_worker._private_jobs",
      "select * from graphile_worker.jobs",
      READ,
    ],
    reads: "refused",
  },
];
