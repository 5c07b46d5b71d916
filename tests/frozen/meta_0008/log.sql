BEGIN TRANSACTION;
CREATE TABLE access_key_use (
	access_key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	CONSTRAINT pk_access_key_use PRIMARY KEY (access_key_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('log_0003');
CREATE TABLE encryption_count (
	material_id TEXT NOT NULL, 
	reserved INTEGER NOT NULL, 
	CONSTRAINT pk_encryption_count PRIMARY KEY (material_id), 
	CONSTRAINT ck_encryption_count_reserved CHECK (reserved >= 0)
);
INSERT INTO "encryption_count" VALUES('78f0aac662d792ec61767693e34df020c760e2dea62279b6b94f546b3dadeaea',1);
INSERT INTO "encryption_count" VALUES('440b17fc9497cc2cb8863019e1ab75cf6319767fdfe2e18e96a2a412ecf1259f',1);
INSERT INTO "encryption_count" VALUES('d6bb0d66fe1295f3c30fa1a16452380c2603efc7f922c020c36113f7d40f7a87',1);
CREATE TABLE last_use (
	key_id TEXT NOT NULL, 
	region TEXT NOT NULL, 
	operation TEXT NOT NULL, 
	used_at INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_last_use PRIMARY KEY (key_id, region), 
	CONSTRAINT ck_last_use_operation CHECK (operation IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair', 'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac', 'Encapsulate', 'Decapsulate'))
);
INSERT INTO "last_use" VALUES('0330e579-411a-4e06-9ef2-f94032b2f64f','eu-central-1','Encrypt',1796068361970724,'78ef0437-ccef-484b-ab31-2724b77e2be0');
INSERT INTO "last_use" VALUES('mrk-9685ee39e63f47e1b3d8aa544e062361','eu-central-1','Encrypt',1796068362229791,'78ef0437-ccef-484b-ab31-2724b77e2be0');
CREATE TABLE sweeper (
	only INTEGER NOT NULL, 
	holder TEXT NOT NULL, 
	until INTEGER NOT NULL, 
	CONSTRAINT pk_sweeper PRIMARY KEY (only), 
	CONSTRAINT ck_sweeper_only CHECK (only = 1)
);
CREATE TABLE use_tracking (
	only INTEGER NOT NULL, 
	since INTEGER NOT NULL, 
	CONSTRAINT pk_use_tracking PRIMARY KEY (only), 
	CONSTRAINT ck_use_tracking_only CHECK (only = 1)
);
INSERT INTO "use_tracking" VALUES(1,1796068359822559);
COMMIT;
