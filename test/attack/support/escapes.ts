// Every attempt to get out, by what it is tried with.

import type { Escape } from "./escapes/escape.ts";
import { FENCES } from "./escapes/fences.ts";
import { OBJECTS } from "./escapes/objects.ts";
import { ROLES } from "./escapes/roles.ts";
import { THE_SETTING } from "./escapes/setting.ts";
import { SIDE_DOORS } from "./escapes/side_doors.ts";
import { TICKETS } from "./escapes/tickets.ts";
import { TRANSACTIONS } from "./escapes/transactions.ts";
import { WRITES } from "./escapes/writes.ts";

export { type Escape, READ } from "./escapes/escape.ts";

/** All of them. */
export const ESCAPES: Escape[] = [
  ...THE_SETTING,
  ...ROLES,
  ...TICKETS,
  ...TRANSACTIONS,
  ...OBJECTS,
  ...FENCES,
  ...SIDE_DOORS,
  ...WRITES,
];
