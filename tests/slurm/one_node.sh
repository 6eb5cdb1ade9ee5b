#!/bin/sh
# A Slurm of one node on this machine, from Debian's packages: tests/slurm/one_node.sh start|stop FOLDER
#
#   apt-get install --no-install-recommends slurmctld slurmd slurmdbd slurm-client munge mariadb-server
#
# Everything that it writes lies in FOLDER, whose name must be short and without spaces (sockets), but for a link from
# /etc/slurm/slurm.conf: Snakemake's jobs find Slurm there alone. Run it as root. The node has the machine's processors, and one gpu
# by name.
set -eu
conf=/etc/slurm/slurm.conf
task=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
database="--no-defaults --socket=$folder/mysql.sock"

require() {
  for program in munged slurmctld slurmd slurmdbd mariadbd mariadb-install-db; do
    command -v $program > /dev/null || { echo "error: $program is missing; install the packages that $0 names." >&2; exit 2; }
  done
  [ "$(id -u)" = 0 ] || { echo "error: slurmd runs jobs of other users; start this as root." >&2; exit 2; }
  [ ! -e $conf ] || [ -L $conf ] || { echo "error: $conf is there: this machine has a Slurm already." >&2; exit 2; }
}

configure() {
  mkdir -p "$folder/state" "$folder/spool"
  host=$(hostname -s)
  memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  cat > "$folder/slurm.conf" << END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=5,sched_min_interval=100000
MpiDefault=none
ReturnToService=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass=$folder/munge.sock
JobAcctGatherType=jobacct_gather/linux
EnforcePartLimits=ALL
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory Gres=gpu:1
PartitionName=main Nodes=$host Default=YES MaxTime=2-00:00:00 State=UP
END
  echo "NodeName=$host Name=gpu File=/dev/null" > "$folder/gres.conf"
  cat > "$folder/slurmdbd.conf" << END
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
LogFile=$folder/slurmdbd.log
PidFile=$folder/slurmdbd.pid
END
  chmod 600 "$folder/slurmdbd.conf"
}

wait_for() {  # a command, until it succeeds
  for _ in $(seq 30); do "$@" > /dev/null 2>&1 && return; sleep 1; done
  echo "error: after half a minute this still fails: $*; see the logs in $folder." >&2
  exit 2
}

start() {
  require
  configure
  mkdir -p "${conf%/*}" && ln -sfn "$folder/slurm.conf" $conf
  export SLURM_CONF="$folder/slurm.conf"  # slurmdbd reads slurmdbd.conf beside it
  dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
  chmod 400 "$folder/munge.key"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
    --seed-file="$folder/munge.seed" --log-file="$folder/munged.log" 2>> "$folder/munged.log"
  [ -d "$folder/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$folder/mysql" > "$folder/mysql.log" 2>&1
  mariadbd $database --user=root --datadir="$folder/mysql" --pid-file="$folder/mariadbd.pid" --skip-networking \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 >> "$folder/mysql.log" 2>&1 &
  wait_for mariadb-admin $database ping
  MYSQL_UNIX_PORT="$folder/mysql.sock" slurmdbd
  wait_for sacctmgr -n show cluster
  sacctmgr -i add cluster one > /dev/null 2>&1 || true
  slurmctld -c
  slurmd -c
  wait_for sh -c 'sinfo -h -o %T | grep -q idle'
  echo "Slurm $(sinfo --version | cut -d' ' -f2) is up; its logs are in $folder"
}

stop() {
  for name in slurmd slurmctld slurmdbd mariadbd munged; do
    [ ! -f "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" 2> /dev/null || true
  done
  [ ! -L $conf ] || rm $conf
}

$task
