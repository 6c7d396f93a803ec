// What the scheduler tells a run of a slot: the kinds that come after another are told how that one ended.
import { z } from "zod";

const missedSlots = z.int().min(0).max(1_000_000).optional();

/** The input of the first kind of a slot; `missed_slots` counts the turns that it stands for beside its own. */
export const FirstInput = z.strictObject({ missed_slots: missedSlots });

/**
 * The input of a kind that follows another: `without` names the kinds of the slot that had failed for good. In a run
 * without a slot it is the word of whoever asked for it, and SQL reads it there no more than the tasks do.
 */
export const FollowingInput = z.strictObject({
  without: z.array(z.string().max(63)).max(10).optional(),
  missed_slots: missedSlots,
});
