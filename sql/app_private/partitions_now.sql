-- Run again at any time: app.maintain() does the same, hourly.
select app_private.partitions_make();
